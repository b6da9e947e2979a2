"""NFNet-F3 on ImageNet: 85.7 % top-1 (paper A, Table 3), from scratch.

As configs/nfnet_f0.py, with F3's depth, image sizes, dropout and RandAugment.
Paper A measured 532.2 ms a step on TPUv3 at 32 images a core:
112,602 steps are 16.6 hours of 128 cores. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import nfnet_f0


def get_config() -> ConfigDict:
  """F0's recipe; what depends on the variant follows the model's name."""
  config = nfnet_f0.get_config()
  config.model.name = 'nfnet_f3'
  return config
