r"""Pre-trains NFNet-F4+ on a large labelled set, as paper A did on JFT-300M.

  python -m scripts.train --config=configs/jft_pretrain_f4_plus.py \
    --workdir=DIR --config.data.data_dir=DATA --config.data.num_train=N \
    --config.data.num_classes=K

As configs/jft_pretrain.py, the schedule of section A.5 for your own images;
JFT-300M is out of reach here (Table 5: 1,860 TPUv3-core-days). Paper A reaches
89.2 % top-1 after fine-tuning (configs/jft_finetune_f4_plus.py). For the
narrower F4 (`--config.model.name=nfnet_f4`) set `--config.num_epochs=40`.
A.5 doesn't state these choices of the recipe: the variants' dropout and
stochastic depth, AGC, softmax with one label per image, no label smoothing.
"""

from ml_collections import ConfigDict

from configs import jft_pretrain, nfnet_f0


def get_config() -> ConfigDict:
  """The NFNets' recipe with A.5's pre-training: only crops and flips."""
  config = nfnet_f0.get_config('nfnet_f4_plus')
  config.batch_size = 4096  # A.5
  config.num_epochs = 20.0  # A.5; F4: 40
  config.model.exact_width = True  # the paper's 527 M parameters
  config.augment.mix = 'none'  # A.5
  config.augment.randaugment_layers = 0  # A.5
  config.augment.randaugment_magnitude = 0
  config.optimizer.weight_decay = 1e-6  # A.5
  config.ema.mode = 'none'  # A.5
  return jft_pretrain.pretraining(config)
