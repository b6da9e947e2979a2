"""What an experiment's records say of themselves: seeds, hardware, cost."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nfnets import records as recording

Record = Mapping[str, Any]


def hardware(records: Iterable[Record]) -> list[str]:
  """The machines, each once."""
  return sorted({_machine(r) for r in records if 'hardware' in r})


def cost(module: Any, records: Sequence[Record]) -> str:
  """What was run took, and what the full size would take, in sentences."""
  told = []
  own = [r for r in records if 'same_as' not in r]
  seconds = sum(map(trained_seconds, own))
  if seconds:
    updates = sum(r.get('updates', 0) for r in own)
    told.append(
      f'{_count(own, "run")}, {updates:,} updates, {_duration(seconds)} of '
      'steps at their usual pace.'
    )
  elif own:
    told.append(f'{_count(own, "measurement")}.')
  if len(own) < len(records):
    rows = ', '.join(
      f'{r["row"]} ({r["same_as"]})' for r in records if 'same_as' in r
    )
    told.append(f'Taken over from equal runs of other experiments: {rows}.')
  if hasattr(module, 'cost'):
    hours = [module.cost(row) for row in module.RUNS]
    told.append(
      f'Full size: {len(hours)} rows, about {_round(min(hours))} to '
      f'{_round(max(hours))} TPUv3 chip-hours each, {_round(sum(hours))} in '
      f'all a seed ({len(module.SEEDS)} seeds): an estimate from the '
      "paper's time of a step, or from multiply-adds at 30 % of the peak."
    )
  return ' '.join(told)


def trained_seconds(record: Record) -> float:
  """A run's steps times the median of the paces that it logged, in seconds.

  A run that was stopped for a while isn't the costlier for it.
  """
  curve = record.get('curve', ())
  logged = [p['train/step_seconds'] for p in curve if 'train/step_seconds' in p]
  return curve[-1]['step'] * statistics.median(logged) if logged else 0.0


def commands(name: str, module: Any, records: Sequence[Record]) -> list[str]:
  """What to type to get an experiment's records and its report.

  A module's `BEFORE` are the commands that its own need the results of.
  """
  if hasattr(module, 'SEEDS'):
    scales = {r.get('scale', recording.FULL) for r in records}
    return (
      [*getattr(module, 'BEFORE', ())]
      + [
        f'python -m scripts.sweep --experiment={name}'
        + ('' if scale == recording.FULL else f' --scale={scale}')
        + ' -- --config.data.data_dir=DATA'
        for scale in getattr(module, 'SCALES', {recording.FULL: {}})
        if scale in scales or scale == recording.FULL
      ]
      + [f'python -m scripts.report --experiment={name}']
    )
  found = [re.sub(r' --only=\S+', '', r['command']) for r in records]
  default = [f'python -m scripts.measure --experiment={name}']
  return [
    *getattr(module, 'BEFORE', ()),
    *(list(dict.fromkeys(found)) or default),
    f'python -m scripts.report --experiment={name}',
  ]


def note(module: Any) -> str:
  """The module's docstring less its title and its commands."""
  _, _, rest = module.__doc__.partition('\n')
  lines = [line for line in rest.splitlines() if not line.startswith('  ')]
  return '\n'.join(lines).strip()


def _machine(record: Record) -> str:
  at = record['hardware']
  device = f'{at["device_count"]} x {at["device"]}'
  return (
    f'{device} ({at["cpu"]}, {at["cores"]} cores), jax '
    f'{record["versions"]["jax"]}'
  )


def _duration(seconds: float) -> str:
  if seconds < 90 * 60:
    return f'{seconds / 60:.0f} minutes'
  return f'{seconds / 3600:.1f} hours'


def _count(things: Sequence[Any], name: str) -> str:
  return f'{len(things)} {name}{"" if len(things) == 1 else "s"}'


def _round(hours: float) -> str:
  return f'{hours:,.0f}' if hours >= 10 else f'{hours:.1f}'
