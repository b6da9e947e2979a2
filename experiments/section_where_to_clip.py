r"""Which layers AGC should clip (paper A, section 4.1).

  python -m scripts.sweep --experiment=section_where_to_clip [--scale=cifar] \
    -- --config.data.data_dir=DATA
  python -m scripts.report --experiment=section_where_to_clip

NF-ResNet-50 for 90 epochs, lambda 0.01, learning rate 0.1 x batch / 256, 5
epochs of warm-up, cosine to 0. The paper prints no numbers for this: what its
text says is what is judged.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import nf_resnet_50_agc
from experiments import _papers

TITLE = 'Where to clip (paper A, section 4.1)'
CLAIM = (
  'It is better not to clip the last linear layer; at batch 4,096 all four '
  'stages must be clipped, and the stem need not be.'
)
SEEDS = (0, 1, 2, 3, 4)
PLACES = {
  'all': (),
  'all_but_head': ('head',),
  'all_but_head_and_stem': ('head', 'stem'),
  'all_but_head_and_stage_1': ('head', 'stage_1'),
  'all_but_head_and_stage_2': ('head', 'stage_2'),
  'all_but_head_and_stage_3': ('head', 'stage_3'),
  'all_but_head_and_stage_4': ('head', 'stage_4'),
}
RUNS = {
  f'bs{batch}_{name}': {'batch_size': batch, 'optimizer.unclipped': unclipped}
  for batch in (4096, 1024)
  for name, unclipped in PLACES.items()
} | {'bs4096_none': {'batch_size': 4096, 'optimizer.clip': 'none'}}
PAPER: dict[str, tuple] = {}
SCALES = _papers.scales(
  [row for row in RUNS if row.startswith('bs4096')],
  clipping=_papers.AGC_SCALE,
)


def get_config(run: str) -> ConfigDict:
  """90 epochs of ImageNet in float32, or less: see `SCALES`."""
  config = nf_resnet_50_agc.get_config()
  return _papers.configure(config, RUNS, SCALES, run)


def cost(row: str) -> float:
  """TPUv3 chip-hours of one seed."""
  del row
  return _papers.hours_of_macs(4.09, 90 * _papers.IMAGENET)


def verdict(records: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
  """Head, stages and stem, each against clipping all but the head."""
  return _papers.judge(records, _full, _scaled)


def report(records: Iterable[Mapping[str, Any]], folder: Any) -> str:
  """Returns the report as markdown."""
  del folder
  return _papers.comparison(RUNS, PAPER, records, SCALES, cost)


def _full(rows: _papers.Rows) -> tuple[str, str]:
  wanted = [f'bs4096_{name}' for name in PLACES]
  if not all(row in rows for row in wanted):
    return 'not run', 'The rows at batch 4,096 are not all there.'
  every, base, stem, *stages = (rows[row] for row in wanted)
  if base.diverged:
    return 'not borne out', 'Clipping all but the head diverges.'
  # Half a point: far above the paper's spread over seeds.
  fails = lambda row: bool(row.diverged) or row.mean < base.mean - 0.5
  parts = (
    bool(every.diverged) or every.mean <= base.mean,
    not fails(stem),
    all(map(fails, stages)),
  )
  word = {3: 'borne out', 0: 'not borne out'}.get(sum(parts), 'mixed')
  told = ', '.join(f'{row} {rows[row].text}' for row in wanted)
  return word, f'At batch 4,096: {told}.'


def _scaled(rows: _papers.Rows) -> str:
  told = [
    f'{row.removeprefix("bs4096_").replace("_", " ")} {found.text}'
    for row, found in rows.items()
  ]
  return f'at the largest batch: {", ".join(told)} (% top-1).'
