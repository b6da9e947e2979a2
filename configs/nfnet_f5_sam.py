"""NFNet-F5 with SAM on ImageNet: 86.3 % top-1 (paper A, Table 3).

As configs/nfnet_f5.py, with SAM, whose ascent uses a fifth of the batch (A.4).
The rho of these runs isn't published: 0.05 is A.5's for fine-tuning, and that
of the SAM paper for ImageNet (arXiv 2010.01412). Paper A measured 1,958.0 ms
per step on TPUv3 at 32 images per core: 112,602 steps take 61.2 hours on 128
cores. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import nfnet_f0


def get_config(model: str = 'nfnet_f5') -> ConfigDict:
  """The NFNets' recipe with SAM; each device has its own perturbation (A.4)."""
  config = nfnet_f0.get_config(model)
  config.sam.rho = 0.05  # A.5; not published for this run
  return config
