"""Measures what each piece of a recipe costs: python -m scripts.recipe_cost.

  python -m scripts.recipe_cost --config=FILE [--rounds=9] [--steps=2]
  python -m scripts.recipe_cost --config=FILE --part=memory

Time is measured in pairs, a plain SGD step next to the step with the piece, so
that what else the machine does meets both alike; memory is the compiler's own
figure. Results are kept in OUT/recipe_cost.json, one entry for each network and
machine, and all of them are written as OUT/recipe_cost.md.
"""

import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A recipe, such as configs/nfnet_f0.py.', lock_config=True
)
PART = flags.DEFINE_enum(
  'part', 'time', ['time', 'memory', 'report'], 'What to measure.'
)
ROUNDS = flags.DEFINE_integer('rounds', 9, 'Pairs of each piece.', 3)
STEPS = flags.DEFINE_integer('steps', 2, 'Steps of each of a pair.', 1)
OUT = flags.DEFINE_string('out', 'results', 'Where the report is.')

REFUSED = 2


def main(argv: Sequence[str]) -> int:
  path = pathlib.Path(OUT.value) / 'recipe_cost.json'
  entry = None
  if PART.value != 'report':
    if len(argv) > 1 or CONFIG.value is None:
      return refuse('name a recipe: --config=configs/nfnet_f0.py')
    from nfnets import finetune
    from nfnets.analysis import cost

    try:
      finetune.complete(CONFIG.value)
    except (ValueError, OSError) as error:
      return refuse(str(error))
    config = CONFIG.value.copy_and_resolve_references()
    entry = describe(config, PART.value)
    if PART.value == 'time':
      entry |= cost.measure_time(config, ROUNDS.value, STEPS.value)
    else:
      entry['bytes'] = cost.measure_memory(config)
  entries = keep(path, entry)
  text = report(entries)
  path.with_suffix('.md').write_text(text)
  print(text, end='')
  return 0


def keep(
  path: pathlib.Path, entry: dict[str, Any] | None
) -> list[dict[str, Any]]:
  """All entries of the file, this one in the place of its like."""
  entries = json.loads(path.read_text()) if path.exists() else []
  if entry is not None:
    same = ('part', 'network', 'machine')
    entries = [e for e in entries if any(e[k] != entry[k] for k in same)]
    entries.append(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1) + '\n')
  return entries


def describe(config: ConfigDict, part: str) -> dict[str, Any]:
  """What was measured, on what, by which command."""
  import jax

  device = jax.devices()[0]
  kind = device.device_kind
  if device.platform == 'cpu':
    kind = f'{os.cpu_count()} CPU cores ({platform.machine()})'
  size = config.data.train_image_size
  flags_given = [
    flag
    for flag in sys.argv[1:]
    if flag.startswith('--config') or not flag.startswith(('--out', '--part'))
  ]
  options = '' if part == 'time' else f' --part={part}'
  return {
    'part': part,
    'network': f'{config.model.name} ({config.data.name}), {size} pixels, '
    f'batch {config.batch_size}, {config.precision}',
    'machine': f'{kind}, jax {jax.__version__}',
    'command': f'python -m scripts.recipe_cost{options} '
    + shlex.join(flags_given),
  }


def report(entries: Sequence[Mapping[str, Any]]) -> str:
  """All entries as Markdown."""
  lines = ['# What the pieces of a recipe cost', '']
  for entry in entries:
    timed = entry['part'] == 'time'
    lines += [
      f'## {"Time" if timed else "Memory"}: {entry["network"]}',
      '',
      f'Measured on {entry["machine"]} by `{entry["command"]}`.',
    ]
    lines += time_lines(entry) if timed else memory_lines(entry)
    lines.append('')
  return '\n'.join(lines[:-1]) + '\n'


def time_lines(entry: Mapping[str, Any]) -> list[str]:
  from nfnets.analysis.cost import OBSERVED, UNOBSERVED

  low, middle, high = entry['seconds']
  lines = [
    f'A plain SGD step (no clipping, no averages) takes {middle:.3g} s '
    f'(quartiles {low:.3g} and {high:.3g}). The pieces, added to it one at a '
    f'time: medians and quartiles of {entry["rounds"]} ratios to a plain '
    f"pair's, {entry['steps']} steps each, in random order in one run.",
    '',
    '| piece | added time, median | quartiles |',
    '|---|---:|---:|',
  ]
  for name, (low, middle, high) in entry['ratios'].items():
    lines.append(
      f'| {name} | {percent(middle)} | {percent(low)} to {percent(high)} |'
    )
  every = entry['observe_every']
  seen, skipped = (entry['ratios'][n][1] for n in (OBSERVED, UNOBSERVED))
  lines += [
    '',
    f'The observatory sees one step in {every}: it adds '
    f'{percent(1 + (seen - skipped) / every, 2)} of a plain step for what it '
    'sees, and what the line of a skipped step says, which the noise of this '
    'measurement bounds.',
  ]
  return lines


def memory_lines(entry: Mapping[str, Any]) -> list[str]:
  lines = [
    "The compiler's own analysis of the whole train step, in MiB. Temporary is "
    'what lives during the step beside its arguments (state and batch); the '
    'state is donated, so that the new one takes no room of its own.',
    '',
    '| step | temporary | of the plain | arguments | of these, donated |',
    '|---|---:|---:|---:|---:|',
  ]
  plain = entry['bytes']['plain']['temporary']
  for name, sizes in entry['bytes'].items():
    temporary, arguments, donated = (
      sizes[key] / 2**20 for key in ('temporary', 'arguments', 'donated')
    )
    lines.append(
      f'| {name} | {temporary:,.0f} | {sizes["temporary"] / plain:.2f} | '
      f'{arguments:,.0f} | {donated:,.0f} |'
    )
  return lines


def percent(ratio: float, digits: int = 0) -> str:
  return f'{100 * (ratio - 1):+.{digits}f} %'


def refuse(why: str) -> int:
  print(f'error: {" ".join(why.split())}', file=sys.stderr)
  return REFUSED


if __name__ == '__main__':
  app.run(main)
