r"""NFNet-F0 on ImageNet: 83.6 % top-1 (paper A, Table 3), from scratch.

  python -m scripts.train --config=configs/nfnet_f0.py --workdir=DIR \
    --config.data.data_dir=DATA

360 epochs at batch 4,096. Paper A measured 73.3 ms a step on TPUv3 with 32
images per core: 112,602 steps take 2.3 hours on 128 cores. Not yet run here.
Images are mixed with others of the batch; `--config.augment.pairs=fresh`, as
released, decodes two for each. Paper A is arXiv 2102.06171. The other variants
have files beside this one; `--config.model.name=nfnet_f3` is the same as
configs/nfnet_f3.py, and `--config.model.name=nfnet_f0_plus` the wide F0 with
the same schedule.
"""

from ml_collections import ConfigDict

from configs import base, lazy


def get_config(model: str = 'nfnet_f0') -> ConfigDict:
  """A complete recipe; every value can be set on the command line."""
  config = base.imagenet(model)
  name = config.model.get_ref('name')
  config.batch_size = 4096  # A.1
  config.num_epochs = 360.0  # A.1
  config.precision = 'bfloat16'  # 5.1

  base.normalizer_free(config)  # model.normalizer='batch': Table 2's last row
  base.squeeze_excite(config, True, 0.5)
  config.model.activation = 'gelu'  # its tanh form, as released
  config.model.use_two_convs = True  # Table 2
  config.model.exact_width = False  # as released; the paper's F4+: True

  config.data.eval_preprocessing = 'resize_crop_32'  # experiment_nfnets.py:55
  config.augment.mix = 'mixup_cutmix'  # A.2: half the batch each
  for key in ('randaugment_layers', 'randaugment_magnitude'):  # Table 1
    config.augment[key] = lazy.published(name, key, int)

  config.optimizer.weight_decay = 2e-5  # A.1
  config.optimizer.clip = 'agc'  # A.1: 0.01
  config.sam.ascent_fraction = 0.2  # A.4
  config.ema.mode = 'warmup'  # utils.py:73; decay 0.99999: A.1
  config.eval_batch_size = 1024
  return config.lock()
