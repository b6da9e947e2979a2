"""NFNet-F4 on ImageNet: 85.9 % top-1 (paper A, Table 3), from scratch.

As configs/nfnet_f0.py, with F4's depth, image sizes, dropout and RandAugment.
Paper A measured 1033.3 ms a step on TPUv3 at 32 images a core:
112,602 steps are 32.3 hours of 128 cores. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import nfnet_f0


def get_config() -> ConfigDict:
  """F0's recipe; what depends on the variant follows the model's name."""
  config = nfnet_f0.get_config()
  config.model.name = 'nfnet_f4'
  return config
