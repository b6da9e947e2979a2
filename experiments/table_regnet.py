"""NF-RegNets against EfficientNets (paper B, Table 3 and Figure 3).

360 epochs at batch 1,024 with learning rate 0.4, 5 epochs of warm-up, cosine
decay to 0.001 and no clipping: configs/nf_regnet_b0.py and its siblings, with
MixUp on one half of the batch and CutMix on the other; '_plain' has neither.
Published are top-1 and multiply-adds at the evaluation size, read off the
figure (B0 and B1 by eye); the numbers without mixing are from memory.
EfficientNets, which are not trained here, are quoted from google-research/sam:
with AutoAugment, B5 with RandAugment.
"""

from configs import nf_regnet_b0
from experiments import _figures, _papers
from experiments.study import Above, Experiment

# Mixed, its multiply-adds in G, plain, the EfficientNet.
TABLE = {
  'b0': (77.0, 0.44, 76.8, 77.1),
  'b1': (78.7, 0.73, 78.6, 79.1),
  'b2': (80.0, 1.08, 79.6, 80.1),
  'b3': (81.2, 1.98, 80.6, 81.6),
  'b4': (82.5, 4.42, 81.7, 82.9),
  'b5': (83.0, 10.48, 82.0, 83.7),
}
EXPERIMENT = Experiment(
  title="NF-RegNets and EfficientNets (paper B's Table 3)",
  claim='Without batch normalization NF-RegNet-B0 to B5, trained with MixUp '
  'and CutMix, come within a point of EfficientNets of about the same '
  'multiply-adds.',
  rows={
    f'{size}{suffix}': {'model.name': f'nf_regnet_{size}', **overrides}
    for size in TABLE
    for suffix, overrides in {'': {}, '_plain': {'augment.mix': 'none'}}.items()
  },
  checks={
    f'MixUp and CutMix help {size.upper()}': Above(size, f'{size}_plain')
    for size in [*TABLE][1:]
  }
  | {
    f'{size.upper()} reaches the EfficientNet of its size less a point, '
    f'{other} - 1': lambda rows, size=size, other=other: (
      not rows[size].diverged and rows[size].mean > other - 1
    )
    for size, (*_, other) in TABLE.items()
  },
  labels={'': 'NF-RegNet', 'plain': 'without mixing'},
  published={k: (mixed, 'D', f'{g} G') for k, (mixed, g, *_) in TABLE.items()}
  | {f'{size}_plain': (row[2], 'M') for size, row in TABLE.items()}
  | {f'EfficientNet-{size}': (row[3], 'R') for size, row in TABLE.items()},
  scales=_papers.scales(('b0', 'b0_plain'), batch=16),
  seeds=(0, 1, 2),
  config=lambda row: nf_regnet_b0.get_config(),
  plot=_figures.lines('size', r'(b\d)'),
)
get_config = EXPERIMENT.get_config
