r"""Fine-tunes any weights on your own images.

  python -m scripts.train --config=configs/finetune.py --workdir=DIR \
    --config.weights=FILE --config.data.name=folder --config.data.data_dir=DIR

FILE is a name (nfnet_f0, dm_nfnet_f0.dm_in1k), a published file (F0_haiku.npz),
a file of timm's (.safetensors, .pth) or of ours, or the folder of a run. Values
of '', 0 or () are filled in: network, image sizes and normalization from the
weights, the numbers of classes and images from the data. There are four
presets:

- `finetune.py`: for tens to thousands of images. A shorter schedule of A.5's
  shape, and a new head with ten times the learning rate. Its numbers are ours,
  not a paper's.
- `finetune.py:a5`: paper A's appendix A.5, 15,000 steps at batch 2,048.
- `finetune.py:a5_sam`: the same, regularized as for NFNet-F4+ there, with SAM.
- `finetune.py:probe`: fits a classifier to the features of the fixed network,
  which are computed once per image (nfnets/linear_probe.py).

`--config.optimizer.frozen="('stem', 'stage_1')"` freezes parameters, and
`--config.optimizer.learning_rate_scales="(('stem', 0.1), ('head', 10.0))"`
scales their learning rates; give stem, stage_1, ..., head, or patterns of
paths. For another resolution set `--config.data.train_image_size=320`, and
`eval_image_size` likewise.
"""

from ml_collections import ConfigDict

from configs import jft_finetune, lazy, nfnet_f0

PRESETS = ('small', 'probe', 'a5', 'a5_sam')


def get_config(preset: str = 'small') -> ConfigDict:
  """Returns the recipe of one of `PRESETS`."""
  if preset not in PRESETS:
    raise ValueError(f'no preset {preset!r}: {", ".join(PRESETS)}')
  config = nfnet_f0.get_config()
  with config.unlocked():
    config.model = ConfigDict({'name': '', 'remat': False, 'scan': False})
    config.model.update({'drop_rate': 0.0, 'stochdepth_rate': 0.0})
  config = jft_finetune.schedule(config)
  config.data.name = 'folder'
  config.data.num_train = 0
  config.data.num_classes = 0
  config.data.train_image_size = 0
  config.data.eval_image_size = 0
  config.data.eval_preprocessing = ''
  config.data.mean = ()
  config.data.std = ()
  config.probe = preset == 'probe'
  if preset in ('small', 'probe'):
    return _small(config)
  return jft_finetune.regularize(config) if preset == 'a5_sam' else config


def _small(config: ConfigDict) -> ConfigDict:
  config.batch_size = 32
  config.precision = 'float32'
  config.num_epochs = 20.0
  epochs = lazy.steps(
    config.data.get_ref('num_train'),
    config.get_ref('num_epochs'),
    config.get_ref('batch_size'),
  )
  config.num_steps = lazy.at_least(100, epochs)
  num_steps = config.get_ref('num_steps')
  config.schedule.warmup_steps = lazy.share(num_steps, 1, 3)  # as in A.5
  config.learning_rate = 0.01
  config.optimizer.learning_rate_scales = (('head', 10.0),)
  config.data.num_threads = 4
  config.eval_batch_size = 32
  config.log_every = 10
  config.eval_every = lazy.at_least(1, lazy.share(num_steps, 1, 5))
  config.checkpoint_every = lazy.at_least(1, lazy.share(num_steps, 1, 5))
  config.keep_checkpoints = 1
  return config
