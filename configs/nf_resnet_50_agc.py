r"""NF-ResNet-50 with AGC: the base of paper A's study of batch size and lambda.

  python -m scripts.train --config=configs/nf_resnet_50_agc.py --workdir=DIR \
    --config.data.data_dir=DATA --config.batch_size=4096

90 epochs at batch sizes from 256 to 4,096 with a learning rate in proportion,
AGC of all layers but the last, and lambda from 0.01 to 0.16 (section 4.1). Read
off Figure 2a: 77.0 % top-1 at batch 1,024, 76.7 % at 4,096, where training
without AGC (`--config.optimizer.clip=none`) collapses; 79.6 % and 79.2 % for
`--config.model.name=nf_resnet_200`. The batch-normalized twin is
configs/resnet_50.py. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import nf_resnet_50


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe with AGC."""
  config = nf_resnet_50.get_config()
  config.optimizer.clip = 'agc'
  config.optimizer.clipping = 0.01  # 4.1, for batches of 1,024 to 4,096
  return config
