r"""ResNet-20 with batch normalization, without, and normalizer-free. CIFAR-10.

  python -m scripts.sweep --experiment=resnet20_three_ways [--scale=cpu] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=resnet20_three_ways

All six networks train alike: learning rate 0.1 x batch / 128 after a linear
warm-up over 5 % of the steps, cosine to 0, Nesterov momentum 0.9, weight decay
5e-4 on weights, pad-crop-flip.
"""

from ml_collections import ConfigDict

from experiments import _study

TITLE = 'ResNet-20 on CIFAR-10, three ways'
CLAIM = (
  'Without batch normalization a ResNet-20 loses accuracy, AGC with lambda '
  '0.01 does not bring it back, and a normalizer-free network does.'
)
PAPER = {'batch': (91.25, 'R', 'He et al., Table 6: batch 128, 164 epochs')}
SEEDS = (0, 1, 2)
AGC = {'optimizer.clip': 'agc', 'optimizer.clipping': 0.01}
RUNS = {
  'batch': {'model.normalizer': 'batch'},
  'none': {'model.normalizer': 'none'},
  'none_agc': {'model.normalizer': 'none', **AGC},
  'nf': {'model.normalizer': 'nf'},
  'nf_agc': {'model.normalizer': 'nf', **AGC},
  'nf_norm': {
    'model.normalizer': 'nf',
    'optimizer.clip': 'norm',
    'optimizer.clipping': 1.0,
  },
}
SCALES = _study.CIFAR_SCALES


def get_config(run: str) -> ConfigDict:
  """Batch 1024 for 100 epochs, or less of both: see `SCALES`."""
  config = _study.cifar_config()
  config.batch_size = 1024
  return _study.configure(config, RUNS, SCALES, run)
