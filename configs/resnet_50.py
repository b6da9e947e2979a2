r"""Batch-normalized pre-activation ResNet-50: the NF-ResNets' twin.

  python -m scripts.train --config=configs/resnet_50.py --workdir=DIR \
    --config.data.data_dir=DATA

As configs/nf_resnet_50.py with another network, without stochastic depth. Paper
A (Figure 2a, read off the picture) has 76.4 % top-1 at batch 1,024 and 76.8 %
at 256 to 4,096. Not yet run here. `--config.model.name=resnet_101` (152, 200,
288, 600) for the others. Statistics are each device's own, as published: the
number of images per device matters.
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
