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
  if trained := [r for r in own if 'curve' in r]:
    told.append(_training_cost(trained))
  if measured := [r for r in own if 'curve' not in r]:
    told.append(_measuring_cost(measured))
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


def basis(
  module: Any, records: Iterable[Record], verdict: tuple[str, str]
) -> str:
  """The scale that a verdict rests on, and the seeds of a row there.

  Args:
    module: the experiment's.
    records: its.
    verdict: a word, and a sentence that begins with its scale if not the full.
  """
  word, why = verdict
  if word == 'not run':
    return ''
  named = re.match(r'At scale (\w+)', why)
  scale = named[1] if named else recording.FULL
  if not hasattr(module, 'SEEDS'):
    return f'scale {scale}'
  seeds: dict[str, set[int]] = {}
  for record in records:
    if record.get('scale', recording.FULL) == scale:
      seeds.setdefault(record['row'], set()).add(record['seed'])
  counts = sorted({len(found) for found in seeds.values()})
  told = ' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))
  return f'scale {scale}, {told} seed{"" if counts == [1] else "s"}'


def by_epoch(records: Sequence[Record]) -> str:
  """How many runs' records have training metrics by epoch; '' without runs."""
  trained = [r for r in records if 'curve' in r]
  if not trained:
    return ''
  having = sum(bool(r.get('epochs')) for r in trained)
  return f'Training metrics by epoch: in {having} of {len(trained)} records.'


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


def _training_cost(records: Sequence[Record]) -> str:
  """Runs, updates and time of those with a timed step; how many have none."""
  timed = [r for r in records if trained_seconds(r)]
  rest = [r for r in records if not trained_seconds(r)]
  updates = sum(r.get('updates', 0) for r in timed or rest)
  told = f'{_count(timed or rest, "run")}, {updates:,} updates'
  if not timed:
    return f'{told}, none of them timed.'
  seconds = _duration(sum(map(trained_seconds, timed)))
  told += f', {seconds} of steps at their usual pace'
  early = [r for r in rest if not r['curve']]
  if early:
    runs = _count(early, 'run')
    whose = 'its' if len(early) == 1 else 'their'
    told += f', without {runs} that ended before {whose} first evaluation'
  if others := len(rest) - len(early):
    told += f', without {others} whose steps were not timed'
  return f'{told}.'


def _measuring_cost(records: Sequence[Record]) -> str:
  timed = [r for r in records if 'seconds' in r]
  told = _count(timed or records, 'measurement')
  if not timed:
    return f'{told}; how long it took is not recorded.'
  told += f', {_duration(sum(r["seconds"] for r in timed))}'
  if rest := len(records) - len(timed):
    told += f', without {rest} whose time is not recorded'
  return f'{told}.'


def _machine(record: Record) -> str:
  at = record['hardware']
  device = f'{at["device_count"]} x {at["device"]}'
  return (
    f'{device} ({at["cpu"]}, {at["cores"]} cores), jax '
    f'{record["versions"]["jax"]}'
  )


def _duration(seconds: float) -> str:
  if seconds < 90:
    return f'{seconds:.0f} seconds'
  if seconds < 90 * 60:
    return f'{seconds / 60:.0f} minutes'
  return f'{seconds / 3600:.1f} hours'


def _count(things: Sequence[Any], name: str) -> str:
  return f'{len(things)} {name}{"" if len(things) == 1 else "s"}'


def _round(hours: float) -> str:
  return f'{hours:,.0f}' if hours >= 10 else f'{hours:.1f}'
