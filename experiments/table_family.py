r"""NFNet's family: depths, resolutions, parameters, FLOPs (paper A, Table 1).

  python -m scripts.measure --experiment=table_family
  python -m scripts.report --experiment=table_family

Counted from the networks themselves, without allocating a weight: nothing is
trained. FLOPs are multiply-adds at the evaluation size, as in the paper.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments import _papers, _study

TITLE = "NFNet's family (paper A's Table 1 and appendix)"
CLAIM = (
  'F0 to F6 have the published depths, resolutions, parameters and '
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
  from nfnets import variants
  from nfnets.analysis import counts

  overrides = config.model.to_dict()
  name = overrides.pop('name')
  row = variants.find(name)
  parts = counts.parts(name, **overrides)
  return {
    'depths': list(row['depths']),
    'train_image_size': row['train_image_size'],
    'eval_image_size': row['eval_image_size'],
    'drop_rate': row['drop_rate'],
    'params': sum(part.params for part in parts),
    'macs': round(sum(part.published_macs for part in parts)),
  }


def verdict(records: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
  """Equal to the last printed digit in every row, or not."""
  records = list(records)
  if not records:
    return 'not run', 'No record is committed yet.'
  off = [r['row'] for r in records if not _agrees(r)]
  if off:
    return 'not borne out', f'These rows differ: {", ".join(sorted(off))}.'
  if len(records) < len(RUNS):
    return 'mixed', f'{len(records)} of {len(RUNS)} rows counted; all agree.'
  return 'borne out', (
    f'All {len(records)} rows agree to the last digit that the source has.'
  )


def report(records: Iterable[Mapping[str, Any]], folder: Any) -> str:
  """Returns the report as markdown."""
  del folder
  found = {record['row']: record['measured'] for record in records}
  header = (
    'network', 'depths', 'pixels, train / test', 'dropout',
    'parameters, M', 'published', 'multiply-adds, G', 'published',
  )  # fmt: skip
  rows = []
  for row in (row for row in RUNS if row in found):
    got, (params, gmacs, tag) = found[row], PAPER[row]
    rows.append(
      (
        row,
        ', '.join(map(str, got['depths'])),
        f'{got["train_image_size"]} / {got["eval_image_size"]}',
        got['drop_rate'],
        f'{got["params"] / 1e6:.2f}',
        f'{params} [{tag}]',
        f'{got["macs"] / 1e9:.2f}',
        f'{gmacs} [{tag}]',
      )
    )
  return (
    f'{_papers.table(header, rows)}\n'
    f'[P] {_study.TRUST["P"]}; [K] {_study.TRUST["K"]}. '
    "'baseline', 'width' and 'default_width' are rows of Table 2 (baseline: "
    'widths 256, 512, 1024, 2048 and one grouped 3x3; width: modified widths, '
    "one 3x3). The paper's F4+ comes out with one group of 192 channels in "
    "stage 1 ('exact'), not with the 128 of the released code."
  )


def _agrees(record: Mapping[str, Any]) -> bool:
  params, gmacs, _ = PAPER[record['row']]
  got = record['measured']
  return all(
    f'{value:.{_decimals(printed)}f}' == str(printed)
    or abs(value - printed) <= 0.5 * 10 ** -_decimals(printed)
    for value, printed in (
      (got['params'] / 1e6, params),
      (got['macs'] / 1e9, gmacs),
    )
  )


def _decimals(number: float) -> int:
  return len(str(number).partition('.')[2])
