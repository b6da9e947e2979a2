r"""NF-ResNet-50 on ImageNet, without clipping (paper B, Table 1).

  python -m scripts.train --config=configs/nf_resnet_50.py --workdir=DIR \
    --config.data.data_dir=DATA

90 epochs at batch 1,024 in float32, as the released code trains it. Paper A
(Figure 2a, read off the picture) has 76.9 % top-1 at this batch. About 2.8e18
FLOP. Not yet run here. `--config.model.name=nf_resnet_101` (152, 200, 288)
gives the same as the files beside this one, nf_resnet_600 is reachable too.
Paper B is arXiv 2101.08692; its text wasn't at hand: from notes on it, the
paper decays by 5e-5, and calls stochastic depth 0.1 and dropout 0.25
(`--config.model.drop_rate=0.25`) regularized.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(model: str = 'nf_resnet_50') -> ConfigDict:
  """The base, which is NF-ResNet-50's: experiment.py:46-105."""
  config = base.imagenet(model)
  base.normalizer_free(config)  # model.normalizer='none': paper B, Figure 2
  base.squeeze_excite(config, False, 0.25)
  return config.lock()
