"""A normalizer-free ResNet-20 with AGC on 1,438 handwritten digits.

  python -m scripts.train --config=configs/quickstart.py --workdir=DIR

The images come with scikit-learn, so nothing is downloaded. It classifies at
least 97 % of the 359 test digits after about a minute on 2 CPU cores.
"""

from ml_collections import ConfigDict

from configs import cifar_resnet20


def get_config() -> ConfigDict:
  """The CIFAR recipe for smaller images, with AGC and a cosine schedule."""
  config = digits(cifar_resnet20.get_config())
  config.num_epochs = 40.0
  config.learning_rate = 0.1
  config.model.normalizer = 'nf'
  config.optimizer.weight_decay = 5e-4
  config.schedule.name = 'warmup_cosine'
  config.schedule.warmup_steps = 22  # 2 epochs
  config.optimizer.nesterov = True
  config.optimizer.clip = 'agc'
  config.optimizer.clipping = 0.1
  config.ema.mode = 'warmup'
  config.eval_every = 44
  config.log_every = 11
  config.checkpoint_every = 110
  return config


def digits(config: ConfigDict) -> ConfigDict:
  """Any recipe on the digits: 8-pixel images of ten classes, no download."""
  config.data.name = 'digits'
  config.data.num_train = 1438
  config.data.num_classes = 10
  config.data.train_image_size = 8
  config.data.eval_image_size = 8
  config.data.eval_preprocessing = 'none'
  config.data.mean = (77.8, 77.8, 77.8)
  config.data.std = (95.9, 95.9, 95.9)
  config.data.crop = 'pad1'  # without flips, which would change digits
  config.data.flip = False
  config.data.cache = True
  config.augment.pad = 0
  config.eval_batch_size = 359
  return config
