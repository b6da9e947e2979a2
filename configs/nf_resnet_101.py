"""NF-ResNet-101 on ImageNet (paper B, Table 1).

As configs/nf_resnet_50.py, deeper. No published accuracy of it could be
verified. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import nf_resnet_50


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe; what depends on the depth follows the name."""
  config = nf_resnet_50.get_config()
  config.model.name = 'nf_resnet_101'
  return config
