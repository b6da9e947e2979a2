"""ResNet-56 on CIFAR-10, as He et al. trained it: 93.03 % (paper D, Table 6).

As configs/cifar_resnet20.py, deeper. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import cifar_resnet20


def get_config() -> ConfigDict:
  """ResNet-20's recipe; what depends on the depth follows the name."""
  config = cifar_resnet20.get_config()
  config.model.name = 'cifar_resnet_56'
  return config
