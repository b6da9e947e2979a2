"""The base of all recipes: 90 epochs of ImageNet, and the default of every key.

A family (nfnet_f0, nf_resnet_50, nf_regnet_b0, cifar_resnet20) changes this
base, and its variants change the family. A key for all recipes is added only
here; runs and records older than the key take its value from here.
"""

from typing import Any

from ml_collections import ConfigDict, FieldReference

from configs import lazy


def imagenet(model_name: str) -> ConfigDict:
  """A complete recipe, not yet locked: families add keys of their networks.

  Args:
    model_name: a name for `nfnets.models.create`. Depths, widths, rates and
      image sizes follow `config.model.name`, also when it is changed later.
  """
  config = ConfigDict()
  config.seed = 0
  config.weights = ''  # a name, a file or a run to start from
  config.probe = False  # fit a linear classifier to features of fixed weights
  config.probe_l2 = 0.0  # its L2 penalty; 0 chooses one
  config.batch_size = 1024  # over all devices
  config.micro_batches = 1
  config.num_epochs = 90.0
  config.precision = 'float32'
  config.loss = 'softmax'
  config.label_smoothing = 0.1
  config.learning_rate = 0.1 * config.get_ref('batch_size').to_float() / 256

  config.model = _model(model_name)
  name = config.model.get_ref('name')
  config.data = _data(name)
  config.augment = ConfigDict()
  config.augment.pad = 0
  config.augment.mix = 'none'
  config.augment.mixup_alpha = 0.2
  config.augment.pairs = 'batch'  # 'fresh', as published, decodes two images
  config.augment.randaugment_layers = 0
  config.augment.randaugment_magnitude = 0

  config.num_steps = lazy.steps(
    config.data.get_ref('num_train'),
    config.get_ref('num_epochs'),
    config.get_ref('batch_size'),
  )
  config.schedule = _schedule(config)
  config.optimizer = _optimizer()
  config.sam = _sam()
  config.ema = ConfigDict()
  config.ema.mode = 'none'
  config.ema.decay = 0.99999

  config.eval_batch_size = 1000
  config.observe_every = 100  # steps between AGC's statistics; 0: none
  config.log_every = 100
  config.eval_every = 5000
  config.checkpoint_every = 1000
  config.keep_checkpoints = 2
  config.stop_after_nonfinite = 10  # steps in a row; fewer are skipped
  config.wandb = False
  return config


def defaults() -> dict[str, Any]:
  """The values of keys that older runs and records don't have."""
  return imagenet('nfnet_f0').copy_and_resolve_references().to_dict()


def _model(model_name: str) -> ConfigDict:
  model = ConfigDict()
  model.name = model_name
  name = model.get_ref('name')
  model.depths = lazy.published(name, 'depths', tuple)
  model.widths = lazy.published(name, 'widths', tuple)
  model.activation = 'relu'
  model.drop_rate = lazy.published(name, 'drop_rate', float)
  model.stochdepth_rate = lazy.published(name, 'stochdepth_rate', float)
  model.remat = False
  model.scan = False  # faster to compile, slower to run on a CPU
  return model


def normalizer_free(config: ConfigDict) -> None:
  """Adds the keys of normalizer-free networks to `config.model`."""
  config.model.normalizer = 'nf'
  config.model.alpha = 0.2
  config.model.skipinit_gain = 0.0
  config.model.ws_eps = 'published'


def squeeze_excite(config: ConfigDict, use: bool, ratio: float) -> None:
  """Adds the keys of networks with optional squeeze-excite."""
  config.model.use_se = use
  config.model.se_ratio = ratio
  config.model.se_activation = 'relu'  # as released; in the papers 'network'


def _data(name: FieldReference) -> ConfigDict:
  data = ConfigDict()
  data.name = 'imagenet2012'
  data.data_dir = ''
  data.train_split = 'train_and_valid'  # all of train; dataset.py:324
  data.eval_split = 'test'  # the official validation set
  data.label = 'label'  # the TFDS feature with the class
  data.num_train = 1281167
  data.num_classes = 1000
  data.train_image_size = lazy.published(name, 'train_image_size', int)
  data.eval_image_size = lazy.published(name, 'eval_image_size', int)
  data.crop = 'inception'
  data.flip = True
  data.eval_preprocessing = 'crop_resize'  # dataset.py:464-485
  data.mean = (0.485 * 255, 0.456 * 255, 0.406 * 255)
  data.std = (0.229 * 255, 0.224 * 255, 0.225 * 255)
  data.num_threads = 16
  data.cache = False  # keep decoded images in memory (small sets)
  data.on_device = False  # keep the decoded set on the device (small sets)
  data.on_error = 'raise'
  return data


def _schedule(config: ConfigDict) -> ConfigDict:
  num_steps = config.get_ref('num_steps')
  num_epochs = config.get_ref('num_epochs')
  schedule = ConfigDict()
  schedule.name = 'warmup_cosine'
  schedule.warmup_steps = lazy.share(num_steps, 5, num_epochs)  # 5 epochs
  schedule.start = 0.0
  schedule.end = 0.0
  schedule.boundaries = (0.5, 0.75)  # of 'piecewise', as fractions of the steps
  schedule.factor = 0.1
  schedule.decay_rate = 0.97  # of 'warmup_exponential', per 2.4 epochs
  schedule.decay_steps = lazy.share(num_steps, 2.4, num_epochs)
  return schedule


def _optimizer() -> ConfigDict:
  optimizer = ConfigDict()
  optimizer.name = 'sgd'  # or adamw, lamb, muon
  optimizer.momentum = 0.9
  optimizer.nesterov = True
  optimizer.weight_decay = 1e-4
  optimizer.decayed = 'weights'  # no gains or biases
  optimizer.clip = 'none'
  optimizer.clipping = 0.01  # lambda of 'agc', the norm of the other clippers
  optimizer.eps = 1e-3  # paper A, 4.1
  optimizer.unclipped = ('head',)  # labels, stages or patterns; paper A, 4.1
  optimizer.frozen = ()
  optimizer.learning_rate_scales = ()  # (('stem', 0.1), ...)
  return optimizer


def _sam() -> ConfigDict:
  sam = ConfigDict()
  sam.rho = 0.0
  sam.ascent_fraction = 1.0
  sam.synchronized = False
  sam.m = 0  # examples that share a perturbation; 0: a device's batch
  sam.perturbed = ()  # patterns of parameters' paths; (): all
  return sam
