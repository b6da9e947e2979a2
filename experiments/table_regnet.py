"""NF-RegNets against EfficientNets (paper B, Table 3 and Figure 3).

360 epochs at batch 1,024, learning rate 0.4, 5 epochs of warm-up, cosine to
0.001, no clipping: configs/nf_regnet_b0.py and its siblings, with MixUp on half
of the batch and CutMix on the other; '_plain' has neither. Published: top-1 and
multiply-adds at the evaluation size, read off the figure (B0 and B1 by eye);
without mixing from memory; EfficientNets with AutoAugment, B5 with RandAugment,
as google-research/sam quotes them, which are not trained here.
"""

from configs import nf_regnet_b0
from experiments import _papers
from experiments.study import Above, Experiment
from nfnets import variants

LABELS = {
  'NF-RegNet': '{}',
  'without mixing': '{}_plain',
  'EfficientNet': 'EfficientNet-{}',
}
SIZES = ('b0', 'b1', 'b2', 'b3', 'b4', 'b5')
MIXED = (77.0, 78.7, 80.0, 81.2, 82.5, 83.0)
PLAIN = (76.8, 78.6, 79.6, 80.6, 81.7, 82.0)
EFFICIENTNET = (77.1, 79.1, 80.1, 81.6, 82.9, 83.7)
GMACS = (0.44, 0.73, 1.08, 1.98, 4.42, 10.48)
EXPERIMENT = Experiment(
  title="NF-RegNets and EfficientNets (paper B's Table 3)",
  claim='Without batch normalization NF-RegNet-B0 to B5, trained with MixUp '
  'and CutMix, come within a point of EfficientNets of about the same '
  'multiply-adds.',
  rows={
    f'{size}{suffix}': {'model.name': f'nf_regnet_{size}', **overrides}
    for size in SIZES
    for suffix, overrides in (('', {}), ('_plain', {'augment.mix': 'none'}))
  },
  checks=[
    *(
      (f'MixUp and CutMix help {size.upper()}', Above(size, f'{size}_plain'))
      for size in SIZES[1:]
    ),
    *(
      (
        f'{size.upper()} reaches the EfficientNet of its size less a point, '
        f'{other} - 1',
        lambda rows, size=size, other=other: (
          not rows[size].diverged and rows[size].mean > other - 1
        ),
      )
      for size, other in zip(SIZES, EFFICIENTNET)
    ),
  ],
  published={
    size: (top_1, 'D', f'{gmacs} G')
    for size, top_1, gmacs in zip(SIZES, MIXED, GMACS)
  }
  | {f'{size}_plain': (top_1, 'M') for size, top_1 in zip(SIZES, PLAIN)}
  | {
    f'EfficientNet-{size}': (top_1, 'R')
    for size, top_1 in zip(SIZES, EFFICIENTNET)
  },
  scales=_papers.scales(('b0', 'b0_plain'), batch=16),
  seeds=(0, 1, 2),
  config=lambda row: nf_regnet_b0.get_config(),
  cost=_papers.cost(lambda row: hours(row)),
  plot=_papers.beside(
    'size',
    {
      label: {size.upper(): name.format(size) for size in SIZES}
      for label, name in LABELS.items()
    },
    smoke=False,
  ),
)
get_config = EXPERIMENT.get_config


def hours(row: str) -> float:
  """TPUv3 chip-hours of one seed; images are smaller in training."""
  size, _, _ = row.partition('_')
  network = variants.find(f'nf_regnet_{size}')
  area = (network['train_image_size'] / network['eval_image_size']) ** 2
  return _papers.hours_of_macs(GMACS[SIZES.index(size)] * area, 360)
