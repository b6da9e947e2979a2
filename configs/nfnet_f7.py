"""NFNet-F7 on ImageNet: in the released code alone, no result is published.

As configs/nfnet_f0.py, with F7's depth, image sizes, dropout and RandAugment.
Not yet run here.
"""

from ml_collections import ConfigDict

from configs import nfnet_f0


def get_config() -> ConfigDict:
  """F0's recipe; what depends on the variant follows the model's name."""
  config = nfnet_f0.get_config()
  config.model.name = 'nfnet_f7'
  return config
