"""FixUp ResNet-50 on ImageNet: paper B's comparison (Table 1).

As configs/nf_resnet_50.py with Zhang et al.'s network (arXiv 1901.09321), held
together by its initialization. No published accuracy of it could be verified.
Not yet run here. `--config.model.name=fixup_resnet_101` (152, 200, 288, 600)
for the others.
"""

from ml_collections import ConfigDict

from configs import nf_resnet_50

# Keys of the NF-ResNets' config.model that this network doesn't have.
NF_ONLY = (
  'alpha',
  'use_se',
  'se_ratio',
  'se_activation',
  'skipinit_gain',
  'normalizer',
  'ws_eps',
)


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe for the FixUp network."""
  config = nf_resnet_50.get_config()
  with config.unlocked():
    for key in NF_ONLY:
      del config.model[key]
    config.model.name = 'fixup_resnet_50'
  return config
