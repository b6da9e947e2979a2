r"""NF-RegNet-B0 on ImageNet: about 77.0 % top-1 (paper B, Figure 3).

  python -m scripts.train --config=configs/nf_regnet_b0.py --workdir=DIR \
    --config.data.data_dir=DATA

360 epochs at batch 1,024 in float32 with MixUp and CutMix; no clipping. The
accuracy was read off the figure. About 9e17 FLOP. Not yet run here.
`--config.model.name=nf_regnet_b3` is the same as configs/nf_regnet_b3.py. B6 to
B8 have no published weight decay: set `--config.optimizer.weight_decay`. Paper
B is arXiv 2101.08692. Values without another source are those of the released
experiment_nf_regnets.py, to which the line numbers refer; except that images
are mixed with others of the batch, since `--config.augment.pairs=fresh`, as
released, decodes two for each.
"""

from ml_collections import ConfigDict

from configs import base, lazy


def get_config(model: str = 'nf_regnet_b0') -> ConfigDict:
  """A complete recipe; every value can be set on the command line."""
  config = base.imagenet(model)
  name = config.model.get_ref('name')
  config.num_epochs = 360.0
  config.learning_rate = 0.4  # as published, not scaled with the batch

  base.normalizer_free(config)  # model.normalizer='batch': the twin
  base.squeeze_excite(config, True, 0.5)
  config.model.width = 0.75  # multiplies the table's widths
  config.model.expansion = 2.25
  config.model.group_size = 8
  config.model.activation = 'silu'

  config.augment.mix = 'mixup_cutmix'  # half the batch each
  config.schedule.end = 0.001
  config.optimizer.weight_decay = lazy.published(
    name, 'weight_decay', float
  )  # :80-81; B's appendix has 2e-5 to 5e-5
  config.ema.mode = 'warmup'  # utils.py:73
  return config.lock()
