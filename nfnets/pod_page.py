"""The text of results/pod_plan.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from nfnets import plan

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
# FLOPs, bytes accessed and bytes of temporaries of the published network's step
# as first known, by a compiler whose version is not known; 32 images a device,
# bfloat16, SGD, and nothing else of a recipe; ours leaves out the same.
PUBLISHED = {
  'v3:2x2': (1.318e12, 11.4e9, 1.35e9),
  'v4:2x2x1': (None, 24.3e9, 1.41e9),
  'v5e:2x2': (None, 24.2e9, 1.37e9),
}

FIGURES = ('flops', 'bytes_accessed', 'temporaries')

Entries = Mapping[str, Mapping[str, Any]]


def page(recipes: Entries, plain: Entries) -> str:
  """The whole page.

  Args:
    recipes: pod_plan.json's entries of recipes, by cell ('nfnet_f0@v3').
    plain: its entries of the plain step ('plain@v3:2x2') and of the published
      one ('published@v3:2x2'); maybe none.
  """
  cells = [c for c, e in recipes.items() if e['method'] != 'estimated']
  command = 'python -m scripts.plan --table --compile='
  command += ','.join([*cells, *plain])
  if any(cell.startswith('published') for cell in plain):
    command += ' --published=FOLDER'
  return _recipes(recipes, command) + (_plain(plain) if plain else '')


def _recipes(entries: Entries, command: str) -> str:
  lines = [
    '# NFNets on TPU pods: memory, work and the least time of a step',
    '',
    'The recipes of `configs/` (bfloat16, AGC, EMA, augmentation on the '
    'device), 32 images a core, 4,096 in all: '
    + ', '.join(TOPOLOGIES.values())
    + '. Each row is one device: a core of v3, a chip of the others (two cores '
    'and 64 images of v4). Memory is arguments + temporaries + code, of what '
    'the compiler lets a program use. Where a step does not fit, estimates say '
    'what makes it fit, each change alone (`--config.NAME=VALUE`).',
    '',
    'Rows say whether they were compiled, refused by the compiler for their '
    'memory, or estimated from shapes. An estimate does not know what the '
    'compiler recomputes by itself to make a step fit. F6 with SAM has its '
    'equal blocks in a loop (`model.scan`), which compiles sooner, recomputes '
    'each in the backward pass (`model.remat`). The compiler takes it on v3, '
    'though the memory that it then reports adds up to more than it allows, so '
    "some seems to be counted twice. Compiling it takes 12 GB of the host's "
    'memory. Its FLOPs, with what is recomputed, and its bytes are estimates, '
    'also where it was compiled.',
    '',
    'The roofline is the largest of FLOPs over peak, bytes over bandwidth and '
    'collectives over interconnect. It is a bound as far as its bytes are '
    f'right: {plan.BYTES}.',
    '',
    'By',
    '',
    '```bash',
    command,
    '```',
    '',
    '| recipe | on | | memory, GiB | arguments | temporary | code | fits '
    '| FLOPs | bytes | roofline, ms | paper, TPUv3, ms |',
    '|---|---|---|--:|--:|--:|--:|---|--:|--:|--:|--:|',
  ]
  return '\n'.join(lines + [_row(*item) for item in entries.items()]) + '\n'


def _plain(entries: Entries) -> str:
  lines = [
    '',
    '## The plain step beside the published network',
    '',
    'NFNet-F0 at 32 images a device, bfloat16, SGD with momentum and weight '
    'decay; augmentation, AGC, averages and the guard against non-finite '
    'steps are left out on both sides. Figures are per device. FOLDER is '
    '`nfnets` of a checkout of google-deepmind/deepmind-research '
    '(`nfnets/bench/published.py`), compiled by the same compiler as ours. '
    'Below it stand the figures as first known, by a compiler whose version '
    'is not known; of v3 they are equal to two digits.',
    '',
    'On v4 and v5e most of the bytes accessed, as the compiler counts them, '
    'are copies to and from on-chip memory, each counted about four times. It '
    'plans them anew for every form of a program: written once more with the '
    'same arithmetic, the published step on v5e had 2.60e10 bytes in the place '
    'of 2.44e10.',
    '',
    '| on | published by | FLOPs | published | bytes accessed | published '
    '| temporaries | published | no worse |',
    '|---|---|--:|--:|--:|--:|--:|--:|---|',
  ]
  for topology, known in PUBLISHED.items():
    if (ours := entries.get(f'plain@{topology}')) is None:
      continue
    theirs = entries.get(f'published@{topology}')
    if theirs and same_compiler(ours, theirs):
      figures = [theirs[key] for key in FIGURES]
      lines.append(_beside(topology, ours, figures, 'the same compiler'))
    lines.append(_beside(topology, ours, known, 'a compiler not known'))
  lines += _traffic(entries)
  return '\n'.join(lines) + '\n'


def _traffic(entries: Entries) -> list[str]:
  """Where the bytes of both sides go, if one compiler made them."""
  lines = [
    '',
    'Where the bytes go, read from the compiled programs '
    '(`nfnets/traffic.py`): those that operations read and write, wherever '
    "their arrays lie, and those that pass the chip's memory (HBM), copies "
    'included, once each. On v3, where no copies are, both are within 0.1 % of '
    'what the compiler counts.',
    '',
    '| on | bytes of operations | published | ratio | through HBM '
    '| published | ratio |',
    '|---|--:|--:|--:|--:|--:|--:|',
  ]
  rows = []
  for topology in PUBLISHED:
    sides = [
      entries.get(f'{kind}@{topology}', {}) for kind in ('plain', 'published')
    ]
    if any(side.get('hbm_bytes') is None for side in sides):
      continue
    if not same_compiler(*sides):
      continue
    columns = [topology]
    for name in ('operation_bytes', 'hbm_bytes'):
      our, their = (side[name] for side in sides)
      columns += [f'{our:.4g}', f'{their:.4g}', f'{our / their:.3f}']
    rows.append('| ' + ' | '.join(columns) + ' |')
  return lines + rows if rows else []


def same_compiler(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
  """Whether two cells were compiled by one version."""
  return all(entry[key] == other[key] for key in ('jax', 'libtpu'))


def _beside(
  topology: str,
  ours: Mapping[str, Any],
  theirs: Sequence[float | None],
  compiler: str,
) -> str:
  pairs = list(zip([ours[key] for key in FIGURES], theirs))
  texts = [
    text
    for our, their in pairs
    for text in (f'{our:.4g}', f'{their:.4g}' if their else 'not known')
  ]
  no_worse = all(a <= b for a, b in pairs if b)
  columns = [topology, compiler, *texts, 'yes' if no_worse else 'no']
  return '| ' + ' | '.join(columns) + ' |'


def _row(cell: str, entry: Mapping[str, Any]) -> str:
  recipe, generation = cell.split('@')
  code = entry['code']
  memory = entry['arguments'] + entry['temporaries'] + (code or 0)
  gib = lambda count: '' if count is None else f'{count / 2**30:.2f}'
  paper = PAPER_MS.get(recipe) if generation == 'v3' else None
  columns = [
    entry['recipe'] + _form(entry),
    entry['topology'],
    entry['method'],
    f'{gib(memory)} of {gib(entry["chip_memory"])}',
    gib(entry['arguments']),
    gib(entry['temporaries']),
    gib(code),
    _fits(entry),
    f'{entry["flops"]:.3g}',
    f'{entry["bytes_accessed"]:.3g}',
    f'{1e3 * max(entry["roofline"].values()):.1f}',
    f'{paper:,.1f}' if paper else '',
  ]
  return '| ' + ' | '.join(columns) + ' |'


def _form(entry: Mapping[str, Any]) -> str:
  changes = entry.get('changes', {})
  parts = changes.get('micro_batches', 1)
  return (', remat' if changes.get('model.remat') else '') + (
    f', {parts} micro-batches' if parts > 1 else ''
  )


def _fits(entry: Mapping[str, Any]) -> str:
  if entry['fits']:
    return 'yes'
  remedies = ' or '.join(f'`{remedy}`' for remedy in entry['remedies'])
  return f'no; with {remedies}' if remedies else 'no; more chips'
