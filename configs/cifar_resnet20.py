r"""ResNet-20 on CIFAR-10, as He et al. trained it: 91.25 % (paper D, Table 6).

  python -m scripts.train --config=configs/cifar_resnet20.py --workdir=DIR \
    --config.data.data_dir=DATA

64,000 steps at batch 128. Three networks of the same depth and widths:
`--config.model.normalizer=batch` (He's), `none` (the same without
normalization) and `nf` (normalizer-free, whose gains and biases aren't
decayed); AGC with `--config.optimizer.clip=agc`. 32, 44, 56 and 110 layers are
the files beside this one; `--config.model.name=cifar_resnet_56` gives the same,
but for 110 layers, whose file has a warm-up too. Paper D is
arXiv 1512.03385, section 4.2; it subtracts each pixel's mean, not each
channel's. Not yet run here in full.
"""

from ml_collections import ConfigDict

from configs import lazy


def get_config() -> ConfigDict:
  """A complete recipe; every value can be set on the command line."""
  config = ConfigDict()
  config.seed = 0
  config.weights = ''  # a file or a run to start from
  config.batch_size = 128
  batch_size = config.get_ref('batch_size')
  config.micro_batches = 1
  config.steps_per_dispatch = 1  # above it: data.on_device, small networks
  config.num_epochs = 163.84  # 64,000 steps of 128 among 50,000 images
  config.precision = 'float32'
  config.loss = 'softmax'
  config.label_smoothing = 0.0
  config.learning_rate = 0.1 * batch_size.to_float() / 128  # 4.2

  config.model = ConfigDict()
  config.model.name = 'cifar_resnet_20'
  name = config.model.get_ref('name')
  config.model.depths = lazy.published(name, 'depths', tuple)
  config.model.widths = lazy.published(name, 'widths', tuple)
  config.model.normalizer = 'batch'
  config.model.activation = 'relu'
  config.model.alpha = 0.2  # of 'nf', as are skipinit_gain and ws_eps
  config.model.drop_rate = 0.0
  config.model.stochdepth_rate = 0.0
  config.model.skipinit_gain = 0.0
  config.model.ws_eps = 'published'
  config.model.remat = False
  config.model.scan = False  # compiles faster, and runs slower on a CPU

  config.data = ConfigDict()
  config.data.name = 'cifar10'
  config.data.data_dir = ''
  config.data.train_split = 'train_and_valid'  # all 50,000
  config.data.eval_split = 'test'
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
  config.data.on_device = False  # decoded, whole: small sets
  config.data.on_error = 'raise'

  config.augment = ConfigDict()
  config.augment.pad = 4  # pad, crop and flip; 4.2
  config.augment.mix = 'none'
  config.augment.mixup_alpha = 0.2
  config.augment.pairs = 'batch'
  config.augment.randaugment_layers = 0
  config.augment.randaugment_magnitude = 0

  config.num_steps = lazy.steps(
    config.data.get_ref('num_train'), config.get_ref('num_epochs'), batch_size
  )
  config.schedule = ConfigDict()
  config.schedule.name = 'piecewise'
  config.schedule.boundaries = (0.5, 0.75)  # of the steps: 32k and 48k
  config.schedule.factor = 0.1
  config.schedule.warmup_steps = 0
  config.schedule.start = 0.0
  config.schedule.end = 0.0
  config.schedule.decay_rate = 0.97  # of 'warmup_exponential', each 2.4 epochs
  config.schedule.decay_steps = lazy.share(
    config.get_ref('num_steps'), 2.4, config.get_ref('num_epochs')
  )

  config.optimizer = ConfigDict()
  config.optimizer.momentum = 0.9  # 4.2
  config.optimizer.nesterov = False
  config.optimizer.weight_decay = 1e-4  # 4.2
  config.optimizer.decayed = lazy.choose(
    config.model.get_ref('normalizer'), {'nf': 'weights'}, default='all'
  )
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
  config.ema.decay = 0.999

  config.eval_batch_size = 1000
  config.observe_every = 100  # of AGC; 0 switches it off
  config.log_every = 50
  config.eval_every = lazy.steps(
    config.data.get_ref('num_train'), 1, batch_size
  )
  config.checkpoint_every = 500
  config.keep_checkpoints = 2
  config.stop_after_nonfinite = 1
  config.wandb = False
  return config.lock()
