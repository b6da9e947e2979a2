"""What a run costs: hours on two CPU cores, or chip-hours on TPUv3."""

from ml_collections import ConfigDict

from experiments._published import SIZES, STEP_MS
from experiments.records import Run
from experiments.study import Experiment
from nfnets import variants

CHIP_FLOPS = 123e12  # peak of a TPUv3 chip (two cores) in bfloat16
# The share of the peak that F0 reaches: 6 x 6.98 G x 1,024 images in 73.3 ms on
# 16 chips (paper A, Table 3).
UTILIZATION = 0.3
IMAGES_PER_CHIP = 64  # of the published steps


def of_seed(experiment: Experiment, run: Run) -> str:
  """The cost of one seed of a row, in words."""
  if experiment.measure:
    return '–'
  if experiment.scales[run.scale].smoke:
    return 'minutes on two CPU cores'
  config = experiment.get_config(run.place)
  if config.data.name == 'imagenet2012':
    return f'{chip_hours(run.row, config):,.0f} TPUv3 chip-hours'
  hours = cpu_hours(config, experiment.image_seconds)
  time = f'{hours:.1f} hours' if hours >= 1 else f'{60 * hours:.0f} minutes'
  return f'{time} on two CPU cores'


def cpu_hours(config: ConfigDict, image_seconds: float) -> float:
  """Hours on two free cores, given the time of a 32-pixel training image."""
  area = (config.data.train_image_size / 32) ** 2
  return _images(config) * image_seconds * area / 3600


def chip_hours(row: str, config: ConfigDict) -> float:
  """From the published step time, else from multiply-adds at `UTILIZATION`."""
  ms = STEP_MS.get(row) or step_ms(config)
  if ms and config.model.name.startswith('nfnet'):
    chips = config.batch_size / IMAGES_PER_CHIP
    return ms / 1000 * config.num_steps * chips / 3600
  # A multiply-add is two operations; backward costs two forwards.
  flops = 6e9 * gmacs(config) * _images(config)
  return flops / (CHIP_FLOPS * UTILIZATION) / 3600


def step_ms(config: ConfigDict) -> float | None:
  """The step time on TPUv3 that paper A prints for a network, if it does."""
  row = variants.find(config.model.name)
  sizes = [config.model.get(key) for key in ('depths', 'widths')]
  if (
    sizes not in ([None, None], [row['depths'], row['widths']])
    or config.data.train_image_size != row['train_image_size']
    or (config.sam.rho and config.sam.ascent_fraction != 0.2)
  ):
    return None
  name = config.model.name.removeprefix('nfnet_')
  name += '_batchnorm' if config.model.get('normalizer') == 'batch' else ''
  return STEP_MS.get(name + ('_sam' if config.sam.rho else ''))


def gmacs(config: ConfigDict) -> float:
  """Multiply-adds of one training image's forward pass, in G."""
  name, data = config.model.name, config.data
  same = 'nf_resnet_' + name.rpartition('_')[2]  # for FixUp and SkipInit
  evaluated = float(SIZES.get(name, SIZES.get(same))[1])
  return evaluated * (data.train_image_size / data.eval_image_size) ** 2


def _images(config: ConfigDict) -> float:
  """Images that pass forward and backward, SAM's ascent step included."""
  passes = 1 + config.sam.ascent_fraction * (config.sam.rho > 0)
  return config.num_steps * config.batch_size * passes
