"""Fine-tunes an NF-ResNet-50 on ImageNet after paper A's section A.5.

15,000 steps at batch 2,048 of all layers, without any regularization. Paper A,
from JFT-300M at 224, 320 and 384 pixels: 79.5, 80.9 and 81.1 % (Table 4); pass
`--config.data.train_image_size=320 --config.data.eval_image_size=320`. Those
weights aren't public, so that result is out of reach here. This is the schedule
alone: from which weights a run starts isn't part of it.
"""

from ml_collections import ConfigDict

from configs import nf_resnet_50


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe with A.5's fine-tuning schedule."""
  config = nf_resnet_50.get_config()
  return schedule(config)


def schedule(config: ConfigDict) -> ConfigDict:
  """Sets what A.5 says of fine-tuning, whatever the network."""
  config.batch_size = 2048  # A.5
  config.num_steps = 15_000  # A.5
  config.num_epochs = 24.0  # of ImageNet; the steps above are what counts
  config.learning_rate = 0.1  # A.5: it doesn't follow the batch
  config.label_smoothing = 0.0  # not stated
  config.schedule.name = 'warmup_cosine'
  config.schedule.warmup_steps = 5000  # A.5
  config.schedule.start = 0.0  # A.5
  config.schedule.end = 0.0  # A.5
  config.optimizer.weight_decay = 0.0  # A.5
  config.model.drop_rate = 0.0  # A.5
  config.model.stochdepth_rate = 0.0  # A.5
  config.augment.mix = 'none'
  config.augment.randaugment_layers = 0
  config.augment.randaugment_magnitude = 0
  config.ema.mode = 'warmup'  # A.5
  config.ema.decay = 0.9999  # A.5
  return config


def regularize(config: ConfigDict) -> ConfigDict:
  """Sets what A.5 says of regularization, with SAM, for NFNet-F4+."""
  config.model.drop_rate = 0.25  # A.5
  config.model.stochdepth_rate = 0.1  # A.5
  config.optimizer.weight_decay = 1e-5  # A.5
  config.sam.rho = 0.05  # A.5
  config.sam.ascent_fraction = 0.2  # A.4
  return config
