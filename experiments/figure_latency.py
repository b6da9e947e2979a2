r"""A training step's time: NFNets, their BN twins, ResNets (paper A, Table 3).

  python -m scripts.measure --experiment=figure_latency [--scale=cpu]
  python -m scripts.report --experiment=figure_latency

The median of many whole training steps on one device, data already there.
Published: TPUv3 at 32 images a core in bfloat16, and one V100 in float16. The
paper's F5 and F6 with SAM have no row here.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import nf_resnet_50, nfnet_f0, resnet_50
from experiments import _papers, _study, _trust, table_imagenet

TITLE = "Time of a training step (paper A's Tables 3 and 6, Figure 1)"
CLAIM = (
  'A normalizer-free network takes less time a step than its batch-normalized '
  'twin: 20 to 40 % less as the text says [P], 14 to 39 % less by its Table 6 '
  '[P].'
)
BATCHNORM = {'model.normalizer': 'batch'}
RUNS = {
  'resnet_50': {'model.name': 'resnet_50'},
  'nf_resnet_50': {'model.name': 'nf_resnet_50'},
  **{f'f{k}': {'model.name': f'nfnet_f{k}'} for k in range(6)},
  **{
    f'f{k}_batchnorm': {'model.name': f'nfnet_f{k}', **BATCHNORM}
    for k in range(4)
  },
}
# (TPUv3 ms, V100 ms): Tables 3 and 6.
PAPER = {
  'resnet_50': (41.6, 35.3),
  'f0': (73.3, 56.7),
  'f1': (158.5, 133.9),
  'f2': (295.8, 226.3),
  'f3': (532.2, 524.5),
  'f4': (1033.3, 1190.6),
  'f5': (1398.5, 2177.1),
  'f0_batchnorm': (111.7, None),
  'f1_batchnorm': (258.0, None),
  'f2_batchnorm': (396.3, None),
  'f3_batchnorm': (617.7, None),
}
TOP_1 = {'resnet_50': table_imagenet.OTHERS['ResNet-50'][0]} | {
  row: cells[0] for row, cells in table_imagenet.TABLE.items() if row in PAPER
}
PAIRS = {'resnet_50': 'nf_resnet_50'} | {
  f'f{k}_batchnorm': f'f{k}' for k in range(4)
}
RECIPES = {'nfnet': nfnet_f0, 'nf_resnet': nf_resnet_50, 'resnet': resnet_50}
SCALES = {
  'full': {
    'note': '32 images in bfloat16 at the training size, on an accelerator',
    'overrides': {},
  },
  'cpu': {
    'note': '4 images in float32, at half the training size a side',
    'overrides': {'batch_size': 4, 'precision': 'float32', 'shrink': 2},
  },
}  # fmt: skip


def get_config(run: str) -> ConfigDict:
  """What one row measures: see `SCALES`."""
  row, scale = _papers.check(RUNS, SCALES, run)
  config = ConfigDict(
    {'batch_size': 32, 'precision': 'bfloat16', 'shrink': 1, 'model': {}}
  )
  values = {k.removeprefix('model.'): v for k, v in RUNS[row].items()}
  config.model.update(values)
  config.update_from_flattened_dict(SCALES[scale]['overrides'])
  return config.lock()


def measure(config: ConfigDict) -> dict[str, Any]:
  """Times the whole training step of one row on this machine's device."""
  from nfnets.bench import step_time

  overrides = config.model.to_dict()
  name = overrides.pop('name')
  size = step_time.default_size(name, 'train') // config.shrink
  return step_time.measure(
    name,
    config.batch_size,
    size,
    config.precision,
    'train',
    seconds=10.0,
    config=RECIPES[name.rpartition('_')[0]].get_config(),
    overrides=overrides,
  )


def verdict(records: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
  """By every pair of twins that is measured, at the fullest scale.

  Twins differ if the quartiles of their steps don't overlap.
  """
  for scale, group in _study.by_scale(records, SCALES).items():
    found = {r['row']: r['measured']['seconds'] for r in group}
    pairs = {
      nf: (found[bn], found[nf])
      for bn, nf in PAIRS.items()
      if bn in found and nf in found
    }
    if not pairs:
      continue
    wins = [bn['low'] > nf['high'] for bn, nf in pairs.values()]
    losses = [nf['low'] > bn['high'] for bn, nf in pairs.values()]
    told = ', '.join(
      f'{name} {bn["median"] / nf["median"]:.2f}'
      for name, (bn, nf) in pairs.items()
    )
    why = f"At scale {scale} on {device(group[0])}: BN's time over NF's is "
    if not any(wins + losses):
      return 'too short to tell', f'{why}{told}; the quartiles overlap.'
    word = 'mixed' if any(wins) else 'not borne out'
    return 'borne out' if all(wins) else word, f'{why}{told}.'
  return 'not run', 'No pair of twins is measured yet.'


def report(records: Iterable[Mapping[str, Any]], folder: Any) -> str:
  """Draws `latency.png` in the folder and returns the report as markdown."""
  records = list(records)
  groups = _study.by_scale(records, SCALES)
  header = ['network', 'TPUv3 ms [P]', 'V100 ms [P]']
  header += [f'here, ms (quartiles), {scale}' for scale in groups]
  rows = []
  for row in RUNS:
    published = [
      '–' if ms is None else ms for ms in PAPER.get(row, (None,) * 2)
    ]
    rows.append([row, *published, *(_cell(g, row) for g in groups.values())])
  notes = [
    f'{scale}: {SCALES[scale]["note"]}, {device(group[0])}; {_steps(group)}.'
    for scale, group in groups.items()
  ]
  _plot(groups, folder)
  return (
    f'{_papers.table(header, rows)}\n{_trust.legend("P")} {" ".join(notes)} '
    'Whether paper A clips the twins that it times, and whether its steps '
    'average, is not known.\n\nWhich of two twins is faster depends on the '
    'network, the image size and the device: `results/batchnorm_costs/` has '
    'ResNet-20 at batch 128.\n\n'
    f'![time of a step; {", ".join(SCALES[s]["note"] for s in groups)}]'
    '(latency.png)'
  )


def _steps(group: Iterable[Mapping[str, Any]]) -> str:
  """What the rows' steps clip and average, by their records."""
  found = {r['row']: r['measured'] for r in group}
  rows = [row for row in RUNS if row in found]
  kinds: dict[str, list[str]] = {}
  for row in rows:
    kinds.setdefault(found[row]['clip'], []).append(row)
  names = {'agc': 'AGC', 'none': 'no clipping'}
  clipped = '; '.join(
    f'{names.get(clip, clip)} in {", ".join(kinds[clip])}'
    for clip in sorted(kinds)
  )
  averaged = [row for row in rows if found[row]['ema']]
  others = [row for row in rows if not found[row]['ema']]
  ema = 'no row averages parameters'
  if averaged:
    ema = f'parameters are averaged in {", ".join(averaged)}'
    ema += f', not in {", ".join(others)}' if others else ''
  return f'whole training steps: {ema}; {clipped}'


def _cell(group: Iterable[Mapping[str, Any]], row: str) -> str:
  for record in group:
    if record['row'] == row:
      seconds = record['measured']['seconds']
      low, median, high = (1000 * seconds[k] for k in ('low', 'median', 'high'))
      return f'{median:,.0f} ({low:,.0f} to {high:,.0f})'
  return 'not run'


def device(record: Mapping[str, Any]) -> str:
  """The device that a record was made on, in words."""
  hardware = record['hardware']
  if hardware['device'] == 'cpu':
    return f'{hardware["cores"]} cores of {hardware["cpu"]}'
  return hardware['device']


def _plot(groups: Mapping[str, list], folder: Any) -> None:
  from matplotlib.figure import Figure

  size = (11, 1 + 2.8 * max(1, len(groups)))
  figure = Figure(figsize=size, layout='constrained')
  axes = figure.subplots(max(1, len(groups)), 2, squeeze=False)
  for (axis, right), (scale, group) in zip(axes, groups.items()):
    found = {r['row']: r['measured']['seconds'] for r in group}
    rows = [row for row in RUNS if row in found]
    ms = [1000 * found[row]['median'] for row in rows]
    errors = [
      [abs(1000 * found[row][end] - value) for row, value in zip(rows, ms)]
      for end in ('low', 'high')
    ]
    colors = ['#d55e00' if row in PAIRS else '#0072b2' for row in rows]
    axis.barh(rows, ms, xerr=errors, color=colors, height=0.6, capsize=3)
    axis.invert_yaxis()
    axis.set_title(f'{SCALES[scale]["note"]}; quartiles', fontsize=9)
    axis.set_xlabel('ms a training step (orange: batch-normalized)')
    axis.grid(axis='x', alpha=0.3)
    top_1 = {row: TOP_1[row] for row in rows if row in TOP_1}
    times = [1000 * found[row]['median'] for row in top_1]
    right.plot(times, list(top_1.values()), 'o', color='#0072b2')
    for row, place in zip(top_1, zip(times, top_1.values())):
      right.annotate(row, place, (5, -10), textcoords='offset points')
    right.set_xscale('log', base=2)
    right.xaxis.set_major_formatter('{x:g}')
    right.set_title("Figure 1 with this machine's times", fontsize=9)
    right.set_xlabel('ms a training step')
    right.set_ylabel('published ImageNet top-1 (%) [P]')
    right.grid(alpha=0.3)
  figure.savefig(folder / 'latency.png', dpi=110)
