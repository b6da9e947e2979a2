r"""NFNet-F0 on ImageNet: 83.6 % top-1 (paper A, Table 3), from scratch.

  python -m scripts.train --config=configs/nfnet_f0.py --workdir=DIR \
    --config.data.data_dir=DATA

360 epochs at batch 4,096. Paper A trained on TPUv3 with 32 images a core, at
73.3 ms a step: 112,602 steps are 2.3 hours of 128 cores. Not yet run here.
Paper A is arXiv 2102.06171. The other variants are the files beside this one;
`--config.model.name=nfnet_f3` gives the same as configs/nfnet_f3.py, and
`--config.model.name=nfnet_f0_plus` the wide one, with the same schedule.
"""

from ml_collections import ConfigDict

from configs import lazy


def get_config() -> ConfigDict:
  """A complete recipe; every value can be set on the command line."""
  config = ConfigDict()
  config.seed = 0
  config.weights = ''  # a file or a run to start from
  config.batch_size = 4096  # A.1
  batch_size = config.get_ref('batch_size')
  config.micro_batches = 1
  config.steps_per_dispatch = 1  # above it: data.on_device, small networks
  config.num_epochs = 360.0  # A.1
  num_epochs = config.get_ref('num_epochs')
  config.precision = 'bfloat16'  # 5.1
  config.loss = 'softmax'
  config.label_smoothing = 0.1  # A.1
  config.learning_rate = 0.1 * batch_size.to_float() / 256  # A.1

  config.model = ConfigDict()
  config.model.name = 'nfnet_f0'
  name = config.model.get_ref('name')
  config.model.depths = lazy.published(name, 'depths', tuple)
  config.model.widths = lazy.published(name, 'widths', tuple)
  config.model.activation = 'gelu'  # its tanh form, as released
  config.model.alpha = 0.2
  config.model.use_se = True
  config.model.se_ratio = 0.5
  config.model.se_activation = 'relu'  # as released; appendix C: 'network'
  config.model.use_two_convs = True  # Table 2
  config.model.exact_width = False  # as released; the paper's F4+: True
  config.model.drop_rate = lazy.published(name, 'drop_rate', float)  # Table 1
  config.model.stochdepth_rate = lazy.published(name, 'stochdepth_rate', float)
  config.model.skipinit_gain = 0.0
  config.model.normalizer = 'nf'  # 'batch': the last row of Table 2
  config.model.ws_eps = 'published'
  config.model.remat = False
  config.model.scan = False  # compiles faster, and runs slower on a CPU

  config.data = ConfigDict()
  config.data.name = 'imagenet2012'
  config.data.data_dir = ''
  config.data.train_split = 'train_and_valid'  # all of train; dataset.py:324
  config.data.eval_split = 'test'  # the official validation set
  config.data.num_train = 1281167
  config.data.num_classes = 1000
  config.data.train_image_size = lazy.published(name, 'train_image_size', int)
  config.data.eval_image_size = lazy.published(name, 'eval_image_size', int)
  config.data.crop = 'inception'  # A.2
  config.data.flip = True  # A.2
  config.data.eval_preprocessing = 'resize_crop_32'  # experiment_nfnets.py:55
  config.data.mean = (0.485 * 255, 0.456 * 255, 0.406 * 255)
  config.data.std = (0.229 * 255, 0.224 * 255, 0.225 * 255)
  config.data.num_threads = 16
  config.data.cache = False  # keep decoded images in memory: small sets
  config.data.on_device = False  # decoded, whole: small sets
  config.data.on_error = 'raise'

  config.augment = ConfigDict()
  config.augment.pad = 0
  config.augment.mix = 'mixup_cutmix'  # A.2: half the batch each
  config.augment.mixup_alpha = 0.2  # dataset.py:154
  config.augment.pairs = 'batch'  # published: 'fresh', two decodes per image
  config.augment.randaugment_layers = lazy.published(
    name, 'randaugment_layers', int
  )
  config.augment.randaugment_magnitude = lazy.published(
    name, 'randaugment_magnitude', int
  )  # Table 1

  config.num_steps = lazy.steps(
    config.data.get_ref('num_train'), num_epochs, batch_size
  )
  config.schedule = ConfigDict()
  config.schedule.name = 'warmup_cosine'
  config.schedule.warmup_steps = lazy.share(
    config.get_ref('num_steps'), 5, num_epochs
  )  # 5 epochs, A.1
  config.schedule.start = 0.0
  config.schedule.end = 0.0
  config.schedule.boundaries = (0.5, 0.75)  # of 'piecewise'
  config.schedule.factor = 0.1
  config.schedule.decay_rate = 0.97  # of 'warmup_exponential', each 2.4 epochs
  config.schedule.decay_steps = lazy.share(
    config.get_ref('num_steps'), 2.4, num_epochs
  )

  config.optimizer = ConfigDict()
  config.optimizer.momentum = 0.9  # A.1
  config.optimizer.nesterov = True  # A.1
  config.optimizer.weight_decay = 2e-5  # A.1
  config.optimizer.decayed = 'weights'  # not gains, not biases; A.1
  config.optimizer.clip = 'agc'
  config.optimizer.clipping = 0.01  # A.1
  config.optimizer.eps = 1e-3  # 4.1
  config.optimizer.unclipped = ('head',)  # 4.1
  config.optimizer.frozen = ()  # labels, places or patterns
  config.optimizer.learning_rate_scales = ()  # (('stem', 0.1), ...)

  config.sam = ConfigDict()
  config.sam.rho = 0.0
  config.sam.ascent_fraction = 0.2  # A.4
  config.sam.synchronized = False  # A.4
  config.sam.m = 0  # examples that share a perturbation; 0: a device's batch
  config.sam.perturbed = ()  # patterns of parameters' paths; none: all

  config.ema = ConfigDict()
  config.ema.mode = 'warmup'  # utils.py:73
  config.ema.decay = 0.99999  # A.1

  config.eval_batch_size = 1024
  config.observe_every = 100  # of AGC; 0 switches it off
  config.log_every = 100
  config.eval_every = 5000
  config.checkpoint_every = 1000
  config.keep_checkpoints = 2
  config.stop_after_nonfinite = 10  # in a row; fewer are skipped
  config.wandb = False
  return config.lock()
