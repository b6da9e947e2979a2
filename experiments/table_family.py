"""NFNet's family: depths, resolutions, parameters, FLOPs (paper A, Table 1).

Counted from the networks themselves, without allocating a weight: nothing is
trained. Depths are residual blocks of the traced network, resolutions and
dropout those of its recipe (configs/). FLOPs are multiply-adds at the
evaluation size, as in the paper. 'baseline', 'width' and 'default_width' are
rows of Table 2: widths 256, 512, 1024, 2048 and one grouped 3x3; modified
widths and one 3x3; the former widths alone. The paper's F4+ comes out with one
group of 192 channels in stage 1 ('exact'), not with the 128 of the released
code.
"""

from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from experiments.study import Experiment, Row

DEFAULT = {'model.widths': (256, 512, 1024, 2048)}
ONE_CONV = {'model.use_two_convs': False}
PIECES = {
  'baseline': DEFAULT | ONE_CONV,
  'width': ONE_CONV,
  'default_width': DEFAULT,
}
# (depths, pixels in training, in evaluation, dropout): F7's are the released
# code's. Table 2's networks and F4+ share them.
CONFIGURED = {
  'f0': ((1, 2, 6, 3), 192, 256, 0.2),
  'f1': ((2, 4, 12, 6), 224, 320, 0.3),
  'f2': ((3, 6, 18, 9), 256, 352, 0.4),
  'f3': ((4, 8, 24, 12), 320, 416, 0.4),
  'f4': ((5, 10, 30, 15), 384, 512, 0.5),
  'f5': ((6, 12, 36, 18), 416, 544, 0.5),
  'f6': ((7, 14, 42, 21), 448, 576, 0.5),
  'f7': ((8, 16, 48, 24), 480, 608, 0.5),
}
# (parameters in M, tag, multiply-adds in G at the evaluation size).
PUBLISHED = {
  'f0': (71.49, 'P', 12.38),
  'f1': (132.63, 'P', 35.54),
  'f2': (193.78, 'P', 62.59),
  'f3': (254.92, 'P', 114.76),
  'f4': (316.07, 'P', 215.24),
  'f5': (377.21, 'P', 289.76),
  'f6': (438.36, 'P', 377.28),
  'f7': (499.50, 'K', 478.78),
  'f4_plus': (524.95, 'K', 333.39),
  'f4_plus_exact': (527, 'P', 367),
  'f0_baseline': (60.81, 'K', 7.68),
  'f1_baseline': (107.63, 'K', 20.70),
  'f2_baseline': (154.45, 'K', 35.57),
  'f3_baseline': (201.26, 'K', 64.36),
  'f0_width': (62.77, 'K', 9.65),
  'f1_width': (115.20, 'K', 26.99),
  'f2_width': (167.63, 'K', 47.07),
  'f3_width': (220.06, 'K', 85.86),
  'f0_default_width': (68.64, 'K', 10.02),
  'f1_default_width': (123.29, 'K', 28.01),
  'f2_default_width': (177.93, 'K', 48.84),
  'f3_default_width': (232.58, 'K', 89.08),
}


def configured(row: Row) -> tuple:
  """What a row's network is trained with."""
  got = row.measured
  keys = ('train_image_size', 'eval_image_size', 'drop_rate')
  return (tuple(got['depths']), *(got[key] for key in keys))


def as_printed(value: float, published: float) -> bool:
  """Whether they agree in every printed digit."""
  decimals = 0 if isinstance(published, int) else 2  # the sources have 20.70
  return abs(value - published) <= 0.5 * 10**-decimals + 1e-9


def every(agrees: Any, names: Iterable[str] = PUBLISHED) -> Any:
  """A check that all rows agree."""
  return lambda rows: all(agrees(rows[name]) for name in names)


EXPERIMENT = Experiment(
  title="NFNet's family (paper A's Table 1 and appendix)",
  claim='F0 to F6 have the published depths, resolutions, dropout, parameters '
  'and multiply-adds, and so do the networks of Table 2 and F4+.',
  rows={
    **{f'f{k}': {'model.name': f'nfnet_f{k}'} for k in range(8)},
    'f4_plus': {'model.name': 'nfnet_f4_plus'},
    'f4_plus_exact': {'model.name': 'nfnet_f4_plus', 'model.exact_width': True},
    **{
      f'f{k}_{name}': {'model.name': f'nfnet_f{k}', **overrides}
      for name, overrides in PIECES.items()
      for k in range(4)
    },
  },
  checks=[
    (
      'depths, pixels and dropout are the published ones',
      every(lambda row: configured(row) == CONFIGURED[row.name.split('_')[0]]),
    ),
    (
      'parameters agree in every printed digit',
      every(
        lambda row: as_printed(
          row.measured['params'] / 1e6, PUBLISHED[row.name][0]
        )
      ),
    ),
    (
      'multiply-adds agree in every printed digit',
      every(
        lambda row: as_printed(
          row.measured['macs'] / 1e9, PUBLISHED[row.name][2]
        )
      ),
    ),
  ],
  published={
    row: (f'{params} M, {macs} G', tag)
    for row, (params, tag, macs) in PUBLISHED.items()
  },
  columns={
    'depths': lambda row: ', '.join(map(str, row.measured['depths'])),
    'pixels, train / test': lambda row: '{} / {}'.format(*configured(row)[1:3]),
    'dropout': lambda row: f'{row.measured["drop_rate"]:g}',
    'parameters, M': lambda row: f'{row.measured["params"] / 1e6:.2f}',
    'multiply-adds, G': lambda row: f'{row.measured["macs"] / 1e9:.2f}',
  },
  config=lambda row: ConfigDict({'model': {}}),
  measure=lambda config: measure(config),
)
get_config = EXPERIMENT.get_config


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
