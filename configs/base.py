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
  name = FieldReference(model_name)
  batch_size = FieldReference(1024)
  num_epochs = FieldReference(90.0)
  num_train = FieldReference(1281167)
  num_steps = lazy.steps(num_train, num_epochs, batch_size)
  values = {
    'seed': 0,
    'weights': '',  # a name, a file or a run to start from
    'probe': False,  # fit a linear classifier to features of fixed weights
    'probe_l2': 0.0,  # its L2 penalty; 0 chooses one
    'batch_size': batch_size,  # over all devices
    'micro_batches': 1,
    'num_epochs': num_epochs,
    'num_steps': num_steps,
    'precision': 'float32',
    'loss': 'softmax',
    'label_smoothing': 0.1,
    'learning_rate': 0.1 * batch_size.to_float() / 256,
    'eval_batch_size': 1000,
    'observe_every': 100,  # steps between AGC's statistics; 0: none
    'log_every': 100,
    'eval_every': 5000,
    'checkpoint_every': 1000,
    'keep_checkpoints': 2,
    'stop_after_nonfinite': 10,  # steps in a row; fewer are skipped
    'wandb': False,
  }
  values['model'] = {
    'name': name,
    'depths': lazy.published(name, 'depths', tuple),
    'widths': lazy.published(name, 'widths', tuple),
    'activation': 'relu',
    'drop_rate': lazy.published(name, 'drop_rate', float),
    'stochdepth_rate': lazy.published(name, 'stochdepth_rate', float),
    'remat': False,
    'scan': False,  # faster to compile, slower to run on a CPU
  }
  values['data'] = {
    'name': 'imagenet2012',
    'data_dir': '',
    'train_split': 'train_and_valid',  # all of train; dataset.py:324
    'eval_split': 'test',  # the official validation set
    'label': 'label',  # the TFDS feature with the class
    'num_train': num_train,
    'num_classes': 1000,
    'train_image_size': lazy.published(name, 'train_image_size', int),
    'eval_image_size': lazy.published(name, 'eval_image_size', int),
    'crop': 'inception',
    'flip': True,
    'eval_preprocessing': 'crop_resize',  # dataset.py:464-485
    'mean': (0.485 * 255, 0.456 * 255, 0.406 * 255),
    'std': (0.229 * 255, 0.224 * 255, 0.225 * 255),
    'num_threads': 16,
    'cache': False,  # keep decoded images in memory (small sets)
    'on_device': False,  # keep the decoded set on the device (small sets)
    'on_error': 'raise',
  }
  values['augment'] = {
    'pad': 0,
    'mix': 'none',
    'mixup_alpha': 0.2,
    'pairs': 'batch',  # 'fresh', as published, decodes two images
    'randaugment_layers': 0,
    'randaugment_magnitude': 0,
  }
  values['schedule'] = {
    'name': 'warmup_cosine',
    'warmup_steps': lazy.share(num_steps, 5, num_epochs),  # 5 epochs
    'start': 0.0,
    'end': 0.0,
    'boundaries': (0.5, 0.75),  # of 'piecewise', as fractions of the steps
    'factor': 0.1,
    'decay_rate': 0.97,  # of 'warmup_exponential', per 2.4 epochs
    'decay_steps': lazy.share(num_steps, 2.4, num_epochs),
  }
  values['optimizer'] = {
    'name': 'sgd',  # or adamw, lamb, muon
    'momentum': 0.9,
    'nesterov': True,
    'weight_decay': 1e-4,
    'decayed': 'weights',  # no gains or biases
    'clip': 'none',
    'clipping': 0.01,  # lambda of 'agc', the norm of the other clippers
    'eps': 1e-3,  # paper A, 4.1
    'unclipped': ('head',),  # labels, stages or patterns; paper A, 4.1
    'frozen': (),
    'learning_rate_scales': (),  # (('stem', 0.1), ...)
  }
  values['sam'] = {
    'rho': 0.0,
    'ascent_fraction': 1.0,
    'synchronized': False,
    'm': 0,  # examples that share a perturbation; 0: a device's batch
    'perturbed': (),  # patterns of parameters' paths; (): all
  }
  values['ema'] = {'mode': 'none', 'decay': 0.99999}
  return ConfigDict(values)


def defaults() -> dict[str, Any]:
  """The values of keys that older runs and records don't have."""
  return imagenet('nfnet_f0').copy_and_resolve_references().to_dict()


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
