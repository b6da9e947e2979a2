"""NF-ResNet-200 on ImageNet (paper B, Table 1).

As configs/nf_resnet_50.py, deeper. Paper A (Figure 2a, read off the
picture) has 79.5 % top-1 at batch 1,024. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import nf_resnet_50


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe; what depends on the depth follows the name."""
  config = nf_resnet_50.get_config()
  config.model.name = 'nf_resnet_200'
  return config
