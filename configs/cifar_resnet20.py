r"""ResNet-20 on CIFAR-10, as He et al. trained it: 91.25 % (paper D, Table 6).

  python -m scripts.train --config=configs/cifar_resnet20.py --workdir=DIR \
    --config.data.data_dir=DATA

64,000 steps at batch 128. There are three networks of the same depth and
widths: `--config.model.normalizer=batch` (He's), `none` (the same without
normalization) and `nf` (normalizer-free, with no decay of gains and biases).
`--config.optimizer.clip=agc` also sets lambda to 0.16 and the warm-up to 100
steps, and exempts skip gains, which open slowly or not at all if AGC clips them
as published (results/pilot, results/headline). For 32, 44, 56 and 110 layers
use the files beside this one, or `--config.model.name=cifar_resnet_56`; only
the file of 110 layers has a warm-up of its own. Paper D is arXiv 1512.03385,
section 4.2, which subtracts the mean of each pixel, not of each channel. Not
yet run here in full.
"""

from ml_collections import ConfigDict

from configs import base, lazy


def get_config(model: str = 'cifar_resnet_20') -> ConfigDict:
  """A complete recipe; every value can be set on the command line."""
  config = base.imagenet(model)
  batch_size = config.get_ref('batch_size')
  config.batch_size = 128
  config.num_epochs = 163.84  # 64,000 steps of 128 images
  config.label_smoothing = 0.0
  config.learning_rate = 0.1 * batch_size.to_float() / 128  # 4.2

  base.normalizer_free(config)
  config.model.normalizer = 'batch'
  config.model.drop_rate = 0.0
  config.model.stochdepth_rate = 0.0

  config.data.name = 'cifar10'
  config.data.num_train = 50000
  config.data.num_classes = 10
  config.data.train_image_size = 32
  config.data.eval_image_size = 32
  config.data.crop = 'none'  # on the device: augment.pad
  config.data.flip = False
  config.data.eval_preprocessing = 'none'
  config.data.mean = (125.31, 122.95, 113.87)  # of the training images
  config.data.std = (62.99, 62.09, 66.70)
  config.data.num_threads = 2
  config.data.cache = True
  config.augment.pad = 4  # pad, crop and flip; 4.2

  config.schedule.name = 'piecewise'  # 32k and 48k
  clip = config.optimizer.get_ref('clip')
  config.schedule.warmup_steps = lazy.choose(clip, {'agc': 100}, default=0)
  # At batch 128 smaller lambdas cost a normalizer-free network accuracy, and
  # larger ones gain nothing (results/agc_grid).
  config.optimizer.clipping = lazy.choose(clip, {'agc': 0.16}, default=0.01)
  normalizer = config.model.get_ref('normalizer')
  config.optimizer.unclipped = lazy.choose(  # the other networks have none
    clip + ' ' + normalizer, {'agc nf': ('head', 'skip_gain')}, ('head',)
  )
  config.optimizer.nesterov = False
  config.optimizer.decayed = lazy.choose(
    normalizer, {'nf': 'weights'}, default='all'
  )  # weight decay 1e-4: 4.2
  config.ema.decay = 0.999

  config.log_every = 50
  config.eval_every = lazy.steps(
    config.data.get_ref('num_train'), 1, batch_size
  )
  config.checkpoint_every = 500
  config.stop_after_nonfinite = 1
  return config.lock()
