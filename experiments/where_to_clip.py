"""Which layers AGC should clip: ResNet-20, normalizer-free. CIFAR-10.

Batch 1,024 at scales full and short. Lambda is 20.48 / batch, 0.02 at 1,024 and
0.16 at 128, since small batches need a larger one (paper A, section 4.1, says
this of ResNets on ImageNet, without numbers). Scales x8 and x16 multiply the
learning rate by 8 and 16, with a lambda whose product with it equals that of 4
times the rate and 0.16; the study uses the first at which the unclipped network
diverges. The comparisons were planned before the runs at scales x8 and x16.
"""

from experiments import _figures, _resnet20
from experiments.study import Above, Experiment, Scale

UNCLIPPED = {
  'all': (),
  'not_head': ('head',),
  'not_head_stem': ('head', 'stem'),
  'stage_1': ('stem', 'final', 'stage_2', 'stage_3'),
  'stage_2': ('stem', 'final', 'stage_1', 'stage_3'),
  'stage_3': ('stem', 'final', 'stage_1', 'stage_2'),
}
EXPERIMENT = Experiment(
  title='Where to clip: ResNet-20',
  claim='Leaving the head unclipped is never worse than clipping everything; '
  'the stem may go unclipped; no stage alone does as well as all of them.',
  rows={
    **{name: {'optimizer.unclipped': at} for name, at in UNCLIPPED.items()},
    'nothing': {'optimizer.clip': 'none'},
  },
  checks={
    'leaving out the head costs at most 1 point': Above(
      'not_head', 'all', by=-1
    ),
    'leaving out the stem too costs at most 1 point': Above(
      'not_head_stem', 'not_head', by=-1
    ),
  }
  | {
    f'{row.replace("_", " ")} alone is worse than all but the head': Above(
      'not_head', row
    )
    for row in ('stage_1', 'stage_2', 'stage_3')
  },
  explored={
    'clipping nothing is worse than all but the head': Above(
      'not_head', 'nothing'
    )
  },
  labels={
    'all': 'all layers',
    'not_head': 'all but the head',
    'not_head_stem': 'all but head and stem',
    'stage_1': 'stage 1 alone',
    'stage_2': 'stage 2 alone',
    'stage_3': 'stage 3 alone',
    'nothing': 'nothing',
  },
  scales=_resnet20.scales(
    more={'optimizer.clipping': 0.16},
    between={
      f'x{factor}': Scale(
        f'10,000 images, 13 epochs, {factor} x the rate, lambda {lambda_}',
        _resnet20.CPU
        | {'learning_rate_factor': factor, 'optimizer.clipping': lambda_},
      )
      for factor, lambda_ in ((8, 0.08), (16, 0.04))
    },
  ),
  seeds=(0, 1, 2),
  config=lambda row: _resnet20.recipe(
    {**_resnet20.NF, **_resnet20.AGC, 'batch_size': 1024}
    | {'optimizer.clipping': 0.02}
  ),
  plot=_figures.lines('clipped', '^(.+)$'),
)
get_config = EXPERIMENT.get_config
