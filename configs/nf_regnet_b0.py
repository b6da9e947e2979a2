r"""NF-RegNet-B0 on ImageNet: about 77.0 % top-1 (paper B, Figure 3).

  python -m scripts.train --config=configs/nf_regnet_b0.py --workdir=DIR \
    --config.data.data_dir=DATA

360 epochs at batch 1,024 in float32 with MixUp and CutMix; no clipping. The
accuracy was read off the figure. About 9e17 FLOP. Not yet run here.
`--config.model.name=nf_regnet_b3` gives the same as configs/nf_regnet_b3.py.
B6 to B8 have no published weight decay: `--config.optimizer.weight_decay=...`.
Paper B is arXiv 2101.08692; line numbers are those of the released
experiment_nf_regnets.py, its source for all that has no other.
"""

from ml_collections import ConfigDict

from configs import lazy


def get_config() -> ConfigDict:
  """A complete recipe; every value can be set on the command line."""
  config = ConfigDict()
  config.seed = 0
  config.weights = ''  # a file or a run to start from
  config.batch_size = 1024
  batch_size = config.get_ref('batch_size')
  config.micro_batches = 1
  config.steps_per_dispatch = 1  # above it: data.on_device, small networks
  config.num_epochs = 360.0
  num_epochs = config.get_ref('num_epochs')
  config.precision = 'float32'
  config.loss = 'softmax'
  config.label_smoothing = 0.1
  config.learning_rate = 0.4  # as published, it doesn't follow the batch

  config.model = ConfigDict()
  config.model.name = 'nf_regnet_b0'
  name = config.model.get_ref('name')
  config.model.depths = lazy.published(name, 'depths', tuple)
  config.model.widths = lazy.published(name, 'widths', tuple)
  config.model.width = 0.75  # of the table's widths
  config.model.expansion = 2.25
  config.model.group_size = 8
  config.model.activation = 'silu'
  config.model.alpha = 0.2  # nf_regnet.py:31
  config.model.use_se = True
  config.model.se_ratio = 0.5
  config.model.se_activation = 'relu'  # as released; B's appendix: 'network'
  config.model.drop_rate = lazy.published(name, 'drop_rate', float)
  config.model.stochdepth_rate = lazy.published(name, 'stochdepth_rate', float)
  config.model.skipinit_gain = 0.0
  config.model.normalizer = 'nf'  # 'batch': the batch-normalized twin
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
  config.augment.mix = 'mixup_cutmix'  # half the batch each
  config.augment.mixup_alpha = 0.2
  config.augment.pairs = 'batch'  # published: 'fresh', two decodes per image
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
  config.schedule.end = 0.001
  config.schedule.boundaries = (0.5, 0.75)  # of 'piecewise'
  config.schedule.factor = 0.1
  config.schedule.decay_rate = 0.97  # of 'warmup_exponential', each 2.4 epochs
  config.schedule.decay_steps = lazy.share(
    config.get_ref('num_steps'), 2.4, num_epochs
  )

  config.optimizer = ConfigDict()
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = lazy.published(
    name, 'weight_decay', float
  )  # :80-81; B's appendix has 2e-5 to 5e-5
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
  config.ema.mode = 'warmup'  # utils.py:73
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
