r"""Pre-trains NFNet-F4+ on a large labelled set, as paper A did on JFT-300M.

  python -m scripts.train --config=configs/jft_pretrain_f4_plus.py \
    --workdir=DIR --config.data.data_dir=DATA --config.data.num_train=N \
    --config.data.num_classes=K

Out of reach here (Table 5: 1,860 TPUv3-core-days), see
configs/jft_pretrain.py: the schedule of section A.5 for a set of your own.
Fine-tuned by configs/jft_finetune_f4_plus.py: 89.2 % top-1. The narrower F4
(`--config.model.name=nfnet_f4`) takes `--config.num_epochs=40`. Not stated
there, and chosen here: NFNets' own dropout, stochastic depth and AGC, one label
an image with softmax, no label smoothing.
"""

from ml_collections import ConfigDict

from configs import nfnet_f0


def get_config() -> ConfigDict:
  """NFNets' recipe with A.5's pre-training schedule; crops and flips alone."""
  config = nfnet_f0.get_config('nfnet_f4_plus')
  config.batch_size = 4096  # A.5
  config.num_epochs = 20.0  # A.5; F4: 40
  config.label_smoothing = 0.0
  config.model.exact_width = True  # the paper's 527 M parameters
  config.augment.mix = 'none'  # A.5
  config.augment.randaugment_layers = 0  # A.5
  config.augment.randaugment_magnitude = 0
  config.schedule.warmup_steps = 5000  # A.5
  config.optimizer.weight_decay = 1e-6  # A.5
  config.ema.mode = 'none'  # A.5
  config.data.name = 'folder'
  config.data.train_split = 'train'
  config.data.eval_split = 'test'
  config.data.num_train = 300_000_000
  config.data.num_classes = 18_000
  config.data.train_image_size = 224  # A.5
  config.data.eval_image_size = 224
  return config
