"""Which layers AGC should clip (paper A, section 4.1).

NF-ResNet-50 for 90 epochs with lambda 0.01, learning rate 0.1 x batch / 256, 5
epochs of warm-up and cosine decay to 0. The paper prints no numbers for this;
the checks are what its text says.
"""

from configs import nf_resnet_50_agc
from experiments import _papers
from experiments.study import Above, Experiment

PLACES = {
  'all': (),
  'all_but_head': ('head',),
  'all_but_head_and_stem': ('head', 'stem'),
  **{
    f'all_but_head_and_stage_{k}': ('head', f'stage_{k}') for k in range(1, 5)
  },
}
BASE = 'bs4096_all_but_head'
EXPERIMENT = Experiment(
  title='Where to clip (paper A, section 4.1)',
  claim='It is better not to clip the last linear layer; at batch 4,096 all '
  'four stages must be clipped, and the stem need not be.',
  rows={
    f'bs{batch}_{name}': {'batch_size': batch, 'optimizer.unclipped': unclipped}
    for batch in (4096, 1024)
    for name, unclipped in PLACES.items()
  }
  | {'bs4096_none': {'batch_size': 4096, 'optimizer.clip': 'none'}},
  checks={
    'at batch 4,096 leaving out the head is better': Above(BASE, 'bs4096_all'),
    'at batch 1,024 leaving out the head is better': Above(
      'bs1024_all_but_head', 'bs1024_all'
    ),
    'leaving out the stem costs at most half a point': Above(
      f'{BASE}_and_stem', BASE, by=-0.5
    ),
    'leaving out any stage costs more than half a point': _papers.every(
      *(Above(BASE, f'{BASE}_and_stage_{k}', by=0.5) for k in (1, 2, 3, 4))
    ),
  },
  scales=_papers.scales(
    [*(f'bs4096_{name}' for name in PLACES), 'bs4096_none'], clipping=16
  ),
  seeds=(0, 1, 2, 3, 4),
  config=lambda row: nf_resnet_50_agc.get_config(),
)
get_config = EXPERIMENT.get_config
