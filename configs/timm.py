r"""One of timm's normalizer-free networks, trained from scratch on ImageNet.

  python -m scripts.train --config=configs/timm.py:eca_nfnet_l0 \
    --workdir=DIR --config.data.data_dir=DATA

Paper A's recipe for F0 with the network named after the colon and its image
sizes, dropout and stochastic depth; timm's own recipes differ. The network's
arguments are in `nfnets.variants.TIMM`. Not yet run.
"""

from ml_collections import ConfigDict

from configs import nfnet_f0
from nfnets import variants

# The arguments that a recipe sets, not the network's variant.
KEYS = (
  'name', 'depths', 'widths', 'drop_rate', 'stochdepth_rate', 'remat', 'scan',
)  # fmt: skip


def get_config(model: str = 'eca_nfnet_l0') -> ConfigDict:
  """A complete recipe; every value can be set on the command line."""
  name = variants.canonical(f'timm/{model.removeprefix("timm/")}')
  row = variants.find(name)
  config = nfnet_f0.get_config()
  config.augment.randaugment_layers = 4  # F0's, whatever the network
  config.augment.randaugment_magnitude = 5
  config.model.name = name
  with config.unlocked():
    full = config.model
    config.model = ConfigDict({key: full.get_ref(key) for key in KEYS})
  config.data.eval_preprocessing = row['eval_preprocessing']
  for key in ('mean', 'std'):
    config.data[key] = row.get(key, config.data[key])
  return config
