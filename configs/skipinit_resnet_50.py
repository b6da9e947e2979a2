"""SkipInit ResNet-50 on ImageNet: paper B's comparison (Table 1).

As configs/nf_resnet_50.py, but with De and Smith's network (arXiv 2002.10444):
plain convolutions, and branches that start at zero. No published accuracy of it
could be verified. Not yet run here. For other depths use
`--config.model.name=skipinit_resnet_101` (152, 200, 288, 600).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe for the SkipInit network."""
  config = base.imagenet('skipinit_resnet_50')
  config.model.skipinit_gain = 0.0
  return config.lock()
