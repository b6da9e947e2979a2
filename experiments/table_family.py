"""NFNet's family: depths, resolutions, parameters, FLOPs (paper A, Table 1).

Everything is counted from the networks themselves, without allocating a weight
or training. Depths are residual blocks of the traced network; resolutions and
dropout are those of its recipe (configs/). FLOPs are multiply-adds at the
evaluation size, as in the paper. 'baseline', 'width' and 'default_width' are
rows of Table 2: widths 256, 512, 1024, 2048 and one grouped 3x3; the modified
widths and one 3x3; the default widths and two. The paper's F4+ results from one
group of 192 channels in stage 1 ('exact'), not from the 128 channels of the
released code.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments._published import SIZES
from experiments.study import Experiment, Row
from nfnets import variants

DEFAULT = {'model.widths': variants.NFNET_DEFAULT_WIDTHS}
ONE_CONV = {'model.use_two_convs': False}
PIECES = {
  'baseline': DEFAULT | ONE_CONV,
  'width': ONE_CONV,
  'default_width': DEFAULT,
}
WHOLE = (*(f'f{k}' for k in range(8)), 'f4_plus')
# Parameters in M, multiply-adds in G at the evaluation size, as printed; tag.
PUBLISHED = {name: SIZES[f'nfnet_{name}'] for name in WHOLE} | {
  'f4_plus_exact': ('527', '367', 'P'),
  'f0_baseline': ('60.81', '7.68', 'K'),
  'f1_baseline': ('107.63', '20.70', 'K'),
  'f2_baseline': ('154.45', '35.57', 'K'),
  'f3_baseline': ('201.26', '64.36', 'K'),
  'f0_width': ('62.77', '9.65', 'K'),
  'f1_width': ('115.20', '26.99', 'K'),
  'f2_width': ('167.63', '47.07', 'K'),
  'f3_width': ('220.06', '85.86', 'K'),
  'f0_default_width': ('68.64', '10.02', 'K'),
  'f1_default_width': ('123.29', '28.01', 'K'),
  'f2_default_width': ('177.93', '48.84', 'K'),
  'f3_default_width': ('232.58', '89.08', 'K'),
}
EXPERIMENT = Experiment(
  title="NFNet's family (paper A's Table 1 and appendix)",
  claim='F0 to F6 have the published depths, resolutions, dropout, parameters '
  'and multiply-adds, and so do the networks of Table 2 and F4+.',
  rows={
    **{name: {'model.name': f'nfnet_{name}'} for name in WHOLE},
    'f4_plus_exact': {'model.name': 'nfnet_f4_plus', 'model.exact_width': True},
    **{
      f'f{k}_{name}': {'model.name': f'nfnet_f{k}', **overrides}
      for name, overrides in PIECES.items()
      for k in range(4)
    },
  },
  checks={
    'depths, pixels and dropout are the published ones (nfnets/variants.py)': (
      lambda rows: all(is_as_configured(rows[name]) for name in PUBLISHED)
    ),
    'parameters agree in every printed digit': lambda rows: all(
      as_printed(rows[name].measured['params'] / 1e6, printed) == printed
      for name, (printed, _, _) in PUBLISHED.items()
    ),
    'multiply-adds agree in every printed digit': lambda rows: all(
      as_printed(rows[name].measured['macs'] / 1e9, printed) == printed
      for name, (_, printed, _) in PUBLISHED.items()
    ),
  },
  published={
    name: (f'{params} M, {macs} G', tag)
    for name, (params, macs, tag) in PUBLISHED.items()
  },
  columns={
    'depths': lambda row: ', '.join(map(str, row.measured['depths'])),
    'pixels, train / test': lambda row: (
      '{train_image_size} / {eval_image_size}'.format_map(row.measured)
    ),
    'dropout': lambda row: f'{row.measured["drop_rate"]:g}',
    'parameters, M': lambda row: f'{row.measured["params"] / 1e6:.2f}',
    'multiply-adds, G': lambda row: f'{row.measured["macs"] / 1e9:.2f}',
  },
  config=lambda row: ConfigDict({'model': {}}),
  measure=lambda config: measure(config),
)
get_config = EXPERIMENT.get_config


def is_as_configured(row: Row) -> bool:
  """Whether a network has what its published row says."""
  published = variants.find(row.config['model']['name'])
  keys = ('train_image_size', 'eval_image_size', 'drop_rate')
  same = all(row.measured[key] == published[key] for key in keys)
  return same and tuple(row.measured['depths']) == published['depths']


def as_printed(value: float, published: str) -> str:
  """A number with as many digits as the published one."""
  return f'{value:.{len(published.partition(".")[2])}f}'


def measure(config: ConfigDict) -> dict[str, Any]:
  """What one row's network has and costs."""
  from configs import nfnet_f0
  from nfnets.analysis import counts

  recipe = nfnet_f0.get_config()
  recipe.model.name = config.model.name
  sizes = {key: recipe.data[f'{key}_image_size'] for key in ('train', 'eval')}
  parts = counts.parts(image_size=sizes['eval'], **config.model)
  return {
    'depths': [part.blocks for part in parts[1:-1]],
    'train_image_size': sizes['train'],
    'eval_image_size': sizes['eval'],
    'drop_rate': recipe.model.drop_rate,
    'params': sum(part.params for part in parts),
    'macs': round(sum(part.published_macs for part in parts)),
  }
