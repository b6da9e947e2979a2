"""NF-ResNet-288 on ImageNet (paper B, Table 1).

As configs/nf_resnet_50.py, deeper. Second-hand, from notes on the paper:
79.5 % top-1, regularized (--config.model.drop_rate=0.25); without that, 2 of 5
runs collapsed at a learning rate of 0.4 and none at 0.2. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import nf_resnet_50


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe; what depends on the depth follows the name."""
  config = nf_resnet_50.get_config()
  config.model.name = 'nf_resnet_288'
  return config
