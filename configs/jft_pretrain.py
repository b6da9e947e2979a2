r"""Pre-trains NF-ResNet-50 on a large labelled set, as paper A did on JFT-300M.

  python -m scripts.train --config=configs/jft_pretrain.py --workdir=DIR \
    --config.data.data_dir=DATA --config.data.num_train=N \
    --config.data.num_classes=K

JFT-300M isn't public, and 10 epochs of it are out of reach here: this is the
schedule of section A.5 for your own folder of images (or another
`--config.data.name`). N and K default to JFT-300M's, rounded. Paper A reaches
81.1 % at 384 pixels after fine-tuning (configs/jft_finetune.py), and with
`--config.model.name=nf_resnet_101` (152, 200) 83.2 % (84.0 %, 84.3 %), all in
Table 4. A.5 doesn't state these choices of the recipe: no clipping, stochastic
depth 0.1, softmax with one label per image, no label smoothing.
"""

from ml_collections import ConfigDict

from configs import nf_resnet_50


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe with A.5's pre-training schedule."""
  config = nf_resnet_50.get_config()
  config.batch_size = 1024  # A.5
  config.num_epochs = 10.0  # A.5
  config.learning_rate = 0.4  # A.5
  config.optimizer.weight_decay = 1e-5  # A.5
  return pretraining(config)


def pretraining(config: ConfigDict) -> ConfigDict:
  """Sets the data and what A.5 says of pre-training any network."""
  config.label_smoothing = 0.0
  config.schedule.warmup_steps = 5000  # A.5
  config.data.name = 'folder'
  config.data.train_split = 'train'
  config.data.eval_split = 'test'
  config.data.num_train = 300_000_000
  config.data.num_classes = 18_000
  config.data.train_image_size = 224  # A.5, for all networks
  config.data.eval_image_size = 224
  return config
