"""NF-ResNets against FixUp, SkipInit and BN by depth (paper B, Table 1).

90 epochs at batch 1,024 with learning rate 0.4, 5 epochs of warm-up, cosine
decay to 0 and no clipping; weight decay is 1e-4 as released (from memory, the
paper has 5e-5). '_reg' adds stochastic depth 0.1 and dropout 0.25.
"""

from configs import fixup_resnet_50, nf_resnet_50, resnet_50, skipinit_resnet_50
from experiments import _papers
from experiments.study import Above, Experiment

DEPTHS = (50, 101, 152, 200, 288)
ARMS = {
  'fixup': ('fixup_resnet', fixup_resnet_50),
  'skipinit': ('skipinit_resnet', skipinit_resnet_50),
  'nf': ('nf_resnet', nf_resnet_50),
  'bn': ('resnet', resnet_50),
}
RATES = {
  '': {'model.drop_rate': 0.0, 'model.stochdepth_rate': 0.0},
  '_reg': {'model.drop_rate': 0.25, 'model.stochdepth_rate': 0.1},
}
TABLE = {  # by depth
  'fixup': (74.0, 75.4, 75.8, 76.2, 76.2),
  'fixup_reg': (75.9, 77.6, 78.4, 78.7, 78.4),
  'skipinit': (73.7, 75.1, 75.7, 75.9, 76.3),
  'skipinit_reg': (75.8, 77.3, 78.0, 78.2, 78.7),
  'nf': (75.8, 77.1, 77.6, 77.9, 78.1),
  'nf_reg': (76.8, 78.4, 79.1, 79.6, 79.5),
  'bn': (76.8, 78.0, 78.6, 79.0, 78.8),
  'bn_reg': (76.4, 78.1, 78.8, 79.2, 79.5),
}
EXPERIMENT = Experiment(
  title="Depth: FixUp, SkipInit, NF and BN (paper B's Table 1)",
  claim='At every depth from 50 to 288 layers a normalizer-free ResNet is '
  'better than FixUp and SkipInit, and with regularization about as good as '
  'batch normalization.',
  rows={
    f'{arm}_{depth}{suffix}': {'model.name': f'{family}_{depth}', **rates}
    for depth in DEPTHS
    for suffix, rates in RATES.items()
    for arm, (family, _) in ARMS.items()
  },
  checks={
    f'{depth} layers, regularized: NF is at most half a point below BN': Above(
      f'nf_{depth}_reg', f'bn_{depth}_reg', by=-0.5
    )
    for depth in DEPTHS
  }
  | {
    f'at every depth NF is above FixUp and SkipInit, {words}': _papers.every(
      *(
        Above(f'nf_{depth}{suffix}', f'{arm}_{depth}{suffix}')
        for depth in DEPTHS
        for arm in ('fixup', 'skipinit')
      )
    )
    for suffix, words in (('_reg', 'regularized'), ('', 'unregularized'))
  },
  published={
    f'{arm}_{depth}{suffix}': (TABLE[f'{arm}{suffix}'][index], 'M')
    for index, depth in enumerate(DEPTHS)
    for arm in ARMS
    for suffix in RATES
  }
  | {'nf_288_reg': (79.5, 'S')},
  scales=_papers.scales(
    [f'{arm}_50{suffix}' for suffix in RATES for arm in ARMS], batch=16
  ),
  seeds=(0, 1, 2, 3, 4),
  config=lambda row: ARMS[row.partition('_')[0]][1].get_config(),
)
get_config = EXPERIMENT.get_config
