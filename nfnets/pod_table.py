"""results/pod_plan.md: NFNet-F0 to F6 on TPUs, 32 images a core."""

import importlib.metadata
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from nfnets import budget, plan, pods
from nfnets.bench import programs

IMAGES_PER_CORE = 32  # paper A, Table 3
# 4,096 images on each: 128 cores.
TOPOLOGIES = {
  'v3': 'v3:8x8',
  'v4': 'v4:4x4x4',
  'v5e': 'v5e:8x16',
  'v6e': 'v6e:8x16',
}
# Paper A, Table 3: milliseconds a step on TPUv3, 32 images a core, bfloat16.
PAPER_MS = {
  'nfnet_f0': 73.3,
  'nfnet_f1': 158.5,
  'nfnet_f2': 295.8,
  'nfnet_f3': 532.2,
  'nfnet_f4': 1033.3,
  'nfnet_f5': 1398.5,
  'nfnet_f6_sam': 2774.1,
}
RECIPES = tuple(PAPER_MS)
LOOPED = ('nfnet_f6_sam',)  # with `model.scan`: 84 blocks, compiled as 8
NAME = 'pod_plan'

# The published network's step, compiled alike, 32 images a device: FLOPs, bytes
# accessed and bytes of temporaries. Bfloat16, SGD, and nothing else of a
# recipe; ours leaves out the same.
PUBLISHED = {
  'v3:2x2': (1.318e12, 11.4e9, 1.35e9),
  'v4:2x2x1': (None, 24.3e9, 1.41e9),
  'v5e:2x2': (None, 24.2e9, 1.37e9),
}
PLAIN = programs.PLAIN | {'optimizer.clip': 'none', 'ema.mode': 'none'}

Entries = dict[str, dict[str, Any]]


def write(
  folder: pathlib.Path,
  to_compile: Sequence[str],
  config_of: Callable[[str], ConfigDict],
  report: Callable[[str], None],
) -> str:
  """Measures what is missing, each kept at once, and writes the table.

  Args:
    folder: of pod_plan.json and pod_plan.md.
    to_compile: cells such as 'nfnet_f0@v3' to compile, unless they are kept
      as compiled already; all others are estimated.
    config_of: a recipe by its file's name.
    report: is told of each cell.

  Returns:
    The table.

  Raises:
    ValueError: a cell isn't in the table, or libtpu isn't installed.
  """
  cells = [f'{recipe}@{name}' for recipe in RECIPES for name in TOPOLOGIES]
  plain = [f'plain@{topology}' for topology in PUBLISHED]
  for cell in to_compile:
    if cell not in cells + plain:
      raise ValueError(
        f'--compile={cell}: name cells such as {cells[0]}; recipes are '
        f'{", ".join(RECIPES)}, generations {", ".join(TOPOLOGIES)}; or '
        + ', '.join(plain)
      )
  path = folder / f'{NAME}.json'
  entries = json.loads(path.read_text()) if path.exists() else {}
  traced: dict[tuple, plan.Program] = {}
  # Estimates first: they are there when a compilation is interrupted.
  missing = [(c, False) for c in cells if c not in entries]
  missing += [
    (c, True)
    for c in to_compile
    if entries.get(c, {}).get('method') in (None, 'estimated')
  ]
  for cell, compiled in missing:
    report(f'{"compiling" if compiled else "estimating"} {cell}')
    recipe, place = cell.split('@')
    if recipe == 'plain':
      entries[cell] = _plain_entry(config_of('nfnet_f0'), place)
    else:
      entries[cell] = _entry(config_of(recipe), recipe, place, compiled, traced)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1) + '\n')
  text = _table({cell: entries[cell] for cell in cells})
  text += _plain_table({c: entries[c] for c in plain if c in entries})
  (folder / f'{NAME}.md').write_text(text)
  return text


def _entry(
  config: ConfigDict,
  recipe: str,
  generation: str,
  compiled: bool,
  traced: dict,
) -> dict[str, Any]:
  pod = pods.find(TOPOLOGIES[generation])
  devices, cores = pod.num_devices, pod.cores
  with config.unlocked():
    config.model.scan = recipe in LOOPED
    config.batch_size = IMAGES_PER_CORE * cores * devices
    config.eval_batch_size = -(-config.eval_batch_size // devices) * devices
  config = config.copy_and_resolve_references()
  # Generations differ in what they hold, not in what is traced.
  same = config.model.name, config.sam.rho, devices, config.batch_size
  if compiled or same not in traced:
    program = plan.measure(config, pod, compiled)
    if not compiled:
      traced[same] = program
  else:
    program = traced[same]
    program = program._replace(fits=program.memory <= pod.chip.memory)
  entry = {
    'recipe': config.model.name + (' with SAM' if config.sam.rho else ''),
    'topology': pod.name,
    'images_per_device': config.batch_size // devices,
    **program._asdict(),
    'chip_memory': pod.chip.memory,
    'roofline': budget.roofline(config, pod, program)._asdict(),
    'jax': importlib.metadata.version('jax'),
  }
  if compiled:
    entry['libtpu'] = importlib.metadata.version('libtpu')
  return entry


def _plain_entry(config: ConfigDict, topology: str) -> dict[str, Any]:
  pod = pods.find(topology)
  with config.unlocked():
    config.update_from_flattened_dict(PLAIN)
    config.batch_size = IMAGES_PER_CORE * pod.num_devices
    config.eval_batch_size = config.batch_size
  config = config.copy_and_resolve_references()
  return {
    **plan.measure(config, pod, compiled=True)._asdict(),
    'jax': importlib.metadata.version('jax'),
    'libtpu': importlib.metadata.version('libtpu'),
  }


def _plain_table(entries: Mapping[str, Mapping[str, Any]]) -> str:
  if not entries:
    return ''
  lines = [
    '',
    '## The plain step beside the published network',
    '',
    'NFNet-F0 at 32 images a device, bfloat16, SGD with momentum and weight '
    'decay, without augmentation, AGC, averages and the guard against '
    'non-finite steps, which the published step has none of; both compiled, '
    'per device. By the command above with `--compile='
    + ','.join(entries)
    + '`.',
    '',
    '| on | FLOPs | published | bytes accessed | published | temporaries '
    '| published | no worse |',
    '|---|--:|--:|--:|--:|--:|--:|---|',
  ]
  for cell, entry in entries.items():
    topology = cell.split('@')[1]
    ours = [entry[key] for key in ('flops', 'bytes_accessed', 'temporaries')]
    theirs = PUBLISHED[topology]
    pairs = [
      text
      for our, their in zip(ours, theirs)
      for text in (f'{our:.4g}', f'{their:.4g}' if their else 'not known')
    ]
    no_worse = all(a <= b for a, b in zip(ours, theirs) if b)
    columns = [topology, *pairs, 'yes' if no_worse else 'no']
    lines.append('| ' + ' | '.join(columns) + ' |')
  return '\n'.join(lines) + '\n'


def _table(entries: Mapping[str, Mapping[str, Any]]) -> str:
  lines = [
    '# NFNets on TPU pods: memory, work and the least time of a step',
    '',
    'The recipes of `configs/` (bfloat16, AGC, EMA, augmentation on the '
    'device; F6 with SAM and its equal blocks in a loop, `model.scan`, which '
    'compiles sooner and keeps far more for the backward pass), 32 images a '
    'core, 4,096 in all: '
    + ', '.join(TOPOLOGIES.values())
    + '. Each row is one device: a core of v3, a chip of the others (two cores '
    'and 64 images of v4). Memory is arguments + temporaries + code, of what '
    'the compiler lets a program use. The roofline is the largest of FLOPs '
    'over peak, bytes over bandwidth and collectives over interconnect; no '
    'step is faster, if the bytes are right.',
    '',
    'Rows say whether they were compiled, refused by the compiler for their '
    'memory, or estimated from shapes. By',
    '',
    '```bash',
    'python -m scripts.plan --table --compile='
    + ','.join(c for c, e in entries.items() if e['method'] != 'estimated'),
    '```',
    '',
    '| recipe | on | | memory, GiB | arguments | temporary | code | fits '
    '| FLOPs | bytes | roofline, ms | paper, TPUv3, ms |',
    '|---|---|---|--:|--:|--:|--:|---|--:|--:|--:|--:|',
  ]
  return '\n'.join(lines + [_row(*item) for item in entries.items()]) + '\n'


def _row(cell: str, entry: Mapping[str, Any]) -> str:
  recipe, generation = cell.split('@')
  code = entry['code']
  memory = entry['arguments'] + entry['temporaries'] + (code or 0)
  gib = lambda count: '' if count is None else f'{count / 2**30:.2f}'
  paper = PAPER_MS.get(recipe) if generation == 'v3' else None
  columns = [
    entry['recipe'],
    entry['topology'],
    entry['method'],
    f'{gib(memory)} of {gib(entry["chip_memory"])}',
    gib(entry['arguments']),
    gib(entry['temporaries']),
    gib(code),
    'yes' if entry['fits'] else 'no',
    f'{entry["flops"]:.3g}',
    f'{entry["bytes_accessed"]:.3g}',
    f'{1e3 * max(entry["roofline"].values()):.1f}',
    f'{paper:,.1f}' if paper else '',
  ]
  return '| ' + ' | '.join(columns) + ' |'
