r"""NF-ResNet-50 on ImageNet, without clipping (paper B, Table 1).

  python -m scripts.train --config=configs/nf_resnet_50.py --workdir=DIR \
    --config.data.data_dir=DATA

90 epochs at batch 1,024 in float32, as in the released code. Paper A (read off
Figure 2a) has 76.9 % top-1 at this batch size. About 2.8e18 FLOP. Not yet run
here. For other depths use the files beside this one, or
`--config.model.name=nf_resnet_101` (152, 200, 288, 600). Paper B is arXiv
2101.08692; its text wasn't available. According to notes on it, the regularized
networks have stochastic depth, 0.1, and dropout. From memory, not verified:
weight decay is 5e-5, dropout 0.25 (`--config.model.drop_rate=0.25`).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(model: str = 'nf_resnet_50') -> ConfigDict:
  """The base, which is NF-ResNet-50's recipe: experiment.py:46-105."""
  config = base.imagenet(model)
  base.normalizer_free(config)  # model.normalizer='none': paper B, Figure 2
  base.squeeze_excite(config, False, 0.25)
  return config.lock()
