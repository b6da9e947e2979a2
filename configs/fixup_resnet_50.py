"""FixUp ResNet-50 on ImageNet: paper B's comparison (Table 1).

As configs/nf_resnet_50.py with Zhang et al.'s network (arXiv 1901.09321), held
together by its initialization. No published accuracy of it could be verified.
Not yet run here. `--config.model.name=fixup_resnet_101` (152, 200, 288, 600)
for the others.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe for the FixUp network."""
  return base.imagenet('fixup_resnet_50').lock()
