r"""Batch-normalized pre-activation ResNet-50, the twin of NF-ResNet-50.

  python -m scripts.train --config=configs/resnet_50.py --workdir=DIR \
    --config.data.data_dir=DATA

As configs/nf_resnet_50.py, but with this network and no stochastic depth.
Paper A (read off Figure 2a) has 76.9 % top-1 at batch 256, 76.4 % at 1,024, and
76.8 % at 512, 2,048 and 4,096. Not yet run here. For other depths use
`--config.model.name=resnet_101` (152, 200, 288, 600). Each device uses its own
batch statistics, as published, so the number of images per device matters.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe for the batch-normalized network."""
  config = base.imagenet('resnet_50')
  config.model.use_se = False
  config.model.se_ratio = 0.25
  config.model.order = 'bn_act'  # resnet.py:152-159
  config.model.conv_init = 'truncated'  # hk.Conv2D's, as released
  return config.lock()
