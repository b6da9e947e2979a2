r"""NF-ResNet-50 on ImageNet, without clipping (paper B, Table 1).

  python -m scripts.train --config=configs/nf_resnet_50.py --workdir=DIR \
    --config.data.data_dir=DATA

90 epochs at batch 1,024 in float32, as the released code trains it. Paper A
(Figure 2a, read off the picture) has 76.9 % top-1 at this batch. About 2.8e18
FLOP. Not yet run here. `--config.model.name=nf_resnet_101` (152, 200, 288)
gives the same as the files beside this one, nf_resnet_600 is reachable too.
Paper B is arXiv 2101.08692; its text wasn't at hand: from notes on it, the
paper decays by 5e-5, and calls stochastic depth 0.1 and dropout 0.25
(`--config.model.drop_rate=0.25`) regularized.
"""

from ml_collections import ConfigDict

from configs import lazy


def get_config() -> ConfigDict:
  """A complete recipe; every value can be set on the command line."""
  config = ConfigDict()
  config.seed = 0
  config.weights = ''  # a file or a run to start from
  config.batch_size = 1024  # experiment.py:46-105, as all without a source
  batch_size = config.get_ref('batch_size')
  config.micro_batches = 1
  config.steps_per_dispatch = 1  # above it: data.on_device, small networks
  config.num_epochs = 90.0
  num_epochs = config.get_ref('num_epochs')
  config.precision = 'float32'
  config.loss = 'softmax'
  config.label_smoothing = 0.1
  config.learning_rate = 0.1 * batch_size.to_float() / 256

  config.model = ConfigDict()
  config.model.name = 'nf_resnet_50'
  name = config.model.get_ref('name')
  config.model.depths = lazy.published(name, 'depths', tuple)
  config.model.widths = lazy.published(name, 'widths', tuple)
  config.model.activation = 'relu'
  config.model.alpha = 0.2  # nf_resnet.py:36
  config.model.use_se = False
  config.model.se_ratio = 0.25
  config.model.se_activation = 'relu'
  config.model.drop_rate = lazy.published(name, 'drop_rate', float)
  config.model.stochdepth_rate = lazy.published(name, 'stochdepth_rate', float)
  config.model.skipinit_gain = 0.0
  config.model.normalizer = 'nf'  # 'none': paper B, Figure 2
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
  config.data.crop = 'inception'
  config.data.flip = True
  config.data.eval_preprocessing = 'crop_resize'  # dataset.py:464-485
  config.data.mean = (0.485 * 255, 0.456 * 255, 0.406 * 255)
  config.data.std = (0.229 * 255, 0.224 * 255, 0.225 * 255)
  config.data.num_threads = 16
  config.data.cache = False  # keep decoded images in memory: small sets
  config.data.on_device = False  # decoded, whole: small sets
  config.data.on_error = 'raise'

  config.augment = ConfigDict()
  config.augment.pad = 0
  config.augment.mix = 'none'
  config.augment.mixup_alpha = 0.2
  config.augment.pairs = 'batch'
  config.augment.randaugment_layers = 0
  config.augment.randaugment_magnitude = 0

  config.num_steps = lazy.steps(
    config.data.get_ref('num_train'), num_epochs, batch_size
  )
  config.schedule = ConfigDict()
  config.schedule.name = 'warmup_cosine'
  config.schedule.warmup_steps = lazy.share(
    config.get_ref('num_steps'), 5, num_epochs
  )  # 5 epochs
  config.schedule.start = 0.0
  config.schedule.end = 0.0
  config.schedule.boundaries = (0.5, 0.75)  # of 'piecewise'
  config.schedule.factor = 0.1
  config.schedule.decay_rate = 0.97  # of 'warmup_exponential', each 2.4 epochs
  config.schedule.decay_steps = lazy.share(
    config.get_ref('num_steps'), 2.4, num_epochs
  )

  config.optimizer = ConfigDict()
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 1e-4
  config.optimizer.decayed = 'weights'
  config.optimizer.clip = 'none'
  config.optimizer.clipping = 0.01
  config.optimizer.eps = 1e-3
  config.optimizer.unclipped = ('head',)
  config.optimizer.frozen = ()  # labels, places or patterns
  config.optimizer.learning_rate_scales = ()  # (('stem', 0.1), ...)

  config.sam = ConfigDict()
  config.sam.rho = 0.0
  config.sam.ascent_fraction = 1.0
  config.sam.synchronized = False
  config.sam.m = 0  # examples that share a perturbation; 0: a device's batch
  config.sam.perturbed = ()  # patterns of parameters' paths; none: all

  config.ema = ConfigDict()
  config.ema.mode = 'none'
  config.ema.decay = 0.99999

  config.eval_batch_size = 1000
  config.observe_every = 100  # of AGC; 0 switches it off
  config.log_every = 100
  config.eval_every = 5000
  config.checkpoint_every = 1000
  config.keep_checkpoints = 2
  config.stop_after_nonfinite = 10  # in a row; fewer are skipped
  config.wandb = False
  return config.lock()
