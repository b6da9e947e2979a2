"""Fine-tunes an NF-ResNet-50 on ImageNet as in paper A, section A.5.

15,000 steps at batch 2,048 of all layers, without regularization. Paper A
reaches 79.5, 80.9 and 81.1 % from JFT-300M at 224, 320 and 384 pixels (Table
4); for 320 use
`--config.data.train_image_size=320 --config.data.eval_image_size=320`. Those
weights aren't public, so these results can't be reproduced here. The recipe
doesn't say which weights to start from: set `--config.weights`.
"""

from ml_collections import ConfigDict

from configs import nf_resnet_50


def get_config() -> ConfigDict:
  """NF-ResNet-50's recipe with A.5's fine-tuning schedule."""
  config = nf_resnet_50.get_config()
  return schedule(config)


def schedule(config: ConfigDict) -> ConfigDict:
  """Sets A.5's schedule for fine-tuning any network."""
  config.batch_size = 2048  # A.5
  config.num_steps = 15_000  # A.5
  config.num_epochs = 24.0  # of ImageNet; num_steps decides
  config.learning_rate = 0.1  # A.5; not scaled with the batch
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
  """Sets A.5's regularization and SAM for NFNet-F4+."""
  config.model.drop_rate = 0.25  # A.5
  config.model.stochdepth_rate = 0.1  # A.5
  config.optimizer.weight_decay = 1e-5  # A.5
  config.sam.rho = 0.05  # A.5
  config.sam.ascent_fraction = 0.2  # A.4
  return config
