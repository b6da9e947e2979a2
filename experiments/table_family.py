r"""NFNet's family: depths, resolutions, parameters, FLOPs (paper A, Table 1).

  python -m scripts.measure --experiment=table_family
  python -m scripts.report --experiment=table_family

Counted from the networks themselves, without allocating a weight: nothing is
trained. Depths are residual blocks of the traced network, resolutions and
dropout those of its recipe (configs/). FLOPs are multiply-adds at the
evaluation size, as in the paper.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments import _papers, _trust

TITLE = "NFNet's family (paper A's Table 1 and appendix)"
CLAIM = (
  'F0 to F6 have the published depths, resolutions, dropout, parameters and '
  'multiply-adds, and so do the networks of Table 2 and F4+.'
)
DEFAULT = {'model.widths': (256, 512, 1024, 2048)}
ONE_CONV = {'model.use_two_convs': False}
RUNS = {
  **{f'f{k}': {'model.name': f'nfnet_f{k}'} for k in range(8)},
  'f4_plus': {'model.name': 'nfnet_f4_plus'},
  'f4_plus_exact': {'model.name': 'nfnet_f4_plus', 'model.exact_width': True},
  **{
    f'f{k}_{name}': {'model.name': f'nfnet_f{k}', **overrides}
    for name, overrides in (
      ('baseline', DEFAULT | ONE_CONV),
      ('width', ONE_CONV),
      ('default_width', DEFAULT),
    )
    for k in range(4)
  },
}
# (depths, pixels in training, in evaluation, dropout, tag) of F0 to F7; Table
# 2's networks and F4+ share them.
CONFIGURED = {
  'f0': ((1, 2, 6, 3), 192, 256, 0.2, 'P'),
  'f1': ((2, 4, 12, 6), 224, 320, 0.3, 'P'),
  'f2': ((3, 6, 18, 9), 256, 352, 0.4, 'P'),
  'f3': ((4, 8, 24, 12), 320, 416, 0.4, 'P'),
  'f4': ((5, 10, 30, 15), 384, 512, 0.5, 'P'),
  'f5': ((6, 12, 36, 18), 416, 544, 0.5, 'P'),
  'f6': ((7, 14, 42, 21), 448, 576, 0.5, 'P'),
  'f7': ((8, 16, 48, 24), 480, 608, 0.5, 'C'),
}
# (parameters in M, multiply-adds in G at the evaluation size, tag).
PAPER = {
  'f0': (71.49, 12.38, 'P'),
  'f1': (132.63, 35.54, 'P'),
  'f2': (193.78, 62.59, 'P'),
  'f3': (254.92, 114.76, 'P'),
  'f4': (316.07, 215.24, 'P'),
  'f5': (377.21, 289.76, 'P'),
  'f6': (438.36, 377.28, 'P'),
  'f7': (499.50, 478.78, 'K'),
  'f4_plus': (524.95, 333.39, 'K'),
  'f4_plus_exact': (527, 367, 'P'),
  'f0_baseline': (60.81, 7.68, 'K'),
  'f1_baseline': (107.63, 20.70, 'K'),
  'f2_baseline': (154.45, 35.57, 'K'),
  'f3_baseline': (201.26, 64.36, 'K'),
  'f0_width': (62.77, 9.65, 'K'),
  'f1_width': (115.20, 26.99, 'K'),
  'f2_width': (167.63, 47.07, 'K'),
  'f3_width': (220.06, 85.86, 'K'),
  'f0_default_width': (68.64, 10.02, 'K'),
  'f1_default_width': (123.29, 28.01, 'K'),
  'f2_default_width': (177.93, 48.84, 'K'),
  'f3_default_width': (232.58, 89.08, 'K'),
}


def get_config(run: str) -> ConfigDict:
  """The network of one row.

  Raises:
    ValueError: for an unknown run.
  """
  if run not in RUNS:
    raise ValueError(f'no row {run!r}: choose one of {", ".join(RUNS)}')
  values = {k.removeprefix('model.'): v for k, v in RUNS[run].items()}
  return ConfigDict({'model': values}).lock()


def measure(config: ConfigDict) -> dict[str, Any]:
  """What one row's network has and costs."""
  from configs import nfnet_f0
  from nfnets.analysis import counts

  overrides = config.model.to_dict()
  name = overrides.pop('name')
  recipe = nfnet_f0.get_config()
  recipe.model.name = name
  data = recipe.data
  parts = counts.parts(name, data.eval_image_size, **overrides)
  return {
    'depths': counts.traced_depths(name, **overrides),
    'train_image_size': data.train_image_size,
    'eval_image_size': data.eval_image_size,
    'drop_rate': recipe.model.drop_rate,
    'params': sum(part.params for part in parts),
    'macs': round(sum(part.published_macs for part in parts)),
  }


def verdict(records: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
  """Equal to the last printed digit in every row, or not."""
  records = list(records)
  if not records:
    return 'not run', 'No record is committed yet.'
  found = sorted((r['row'], _differences(r)) for r in records)
  if off := [f'{row} ({", ".join(what)})' for row, what in found if what]:
    return 'not borne out', f'These rows differ: {"; ".join(off)}.'
  if len(records) < len(RUNS):
    return 'mixed', f'{len(records)} of {len(RUNS)} rows counted; all agree.'
  return 'borne out', (
    f'All {len(records)} rows have the published depths, resolutions and '
    'dropout, and agree in parameters and multiply-adds to the last digit that '
    'the source has.'
  )


def report(records: Iterable[Mapping[str, Any]], folder: Any) -> str:
  """Returns the report as markdown."""
  del folder
  found = {record['row']: record['measured'] for record in records}
  header = (
    'network', 'depths; pixels, train / test; dropout', 'published',
    'parameters, M', 'published', 'multiply-adds, G', 'published',
  )  # fmt: skip
  rows = []
  for row in (row for row in RUNS if row in found):
    got, (params, gmacs, tag) = found[row], PAPER[row]
    *published, source = CONFIGURED[row.partition('_')[0]]
    rows.append(
      (
        row,
        _configuration(*_configured(got)),
        f'{_configuration(*published)} [{source}]',
        f'{got["params"] / 1e6:.2f}',
        f'{params:.{_decimals(params)}f} [{tag}]',
        f'{got["macs"] / 1e9:.2f}',
        f'{gmacs:.{_decimals(gmacs)}f} [{tag}]',
      )
    )
  return (
    f'{_papers.table(header, rows)}\n'
    f'{_trust.legend("PCK")} '
    "'baseline', 'width' and 'default_width' are rows of Table 2 (baseline: "
    'widths 256, 512, 1024, 2048 and one grouped 3x3; width: modified widths, '
    "one 3x3). The paper's F4+ comes out with one group of 192 channels in "
    "stage 1 ('exact'), not with the 128 of the released code."
  )


def _configured(measured: Mapping[str, Any]) -> tuple:
  keys = ('train_image_size', 'eval_image_size', 'drop_rate')
  return (tuple(measured['depths']), *(measured[key] for key in keys))


def _configuration(
  depths: tuple[int, ...], train: int, test: int, dropout: float
) -> str:
  return f'{", ".join(map(str, depths))}; {train} / {test}; {dropout:g}'


def _differences(record: Mapping[str, Any]) -> list[str]:
  """What of a record isn't as published."""
  row, got = record['row'], record['measured']
  names = ('depths', 'training size', 'evaluation size', 'dropout')
  published = CONFIGURED[row.partition('_')[0]]
  pairs = zip(names, _configured(got), published)
  off = [name for name, value, printed in pairs if value != printed]
  params, gmacs, _ = PAPER[row]
  for name, value, printed in (
    ('parameters', got['params'] / 1e6, params),
    ('multiply-adds', got['macs'] / 1e9, gmacs),
  ):
    if abs(value - printed) > 0.5 * 10 ** -_decimals(printed) + 1e-9:
      off.append(name)
  return off


def _decimals(number: float) -> int:
  return 0 if isinstance(number, int) else 2  # the sources have 20.70
