"""FixUp ResNet-50 on ImageNet: paper B's comparison (Table 1).

As configs/nf_resnet_50.py, but with Zhang et al.'s network (arXiv 1901.09321),
which only its initialization keeps stable. No published accuracy of it could be
verified. Not yet run here. For other depths use
`--config.model.name=fixup_resnet_101` (152, 200, 288, 600).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe for the FixUp network."""
  return base.imagenet('fixup_resnet_50').lock()
