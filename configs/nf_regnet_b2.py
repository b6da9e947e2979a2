"""NF-RegNet-B2 on ImageNet: about 80.0 % top-1 (paper B, Figure 3).

As configs/nf_regnet_b0.py, with B2's depth, widths, image sizes, dropout and
weight decay. The accuracy was read off the figure. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import nf_regnet_b0


def get_config() -> ConfigDict:
  """B0's recipe; what depends on the variant follows the model's name."""
  config = nf_regnet_b0.get_config()
  config.model.name = 'nf_regnet_b2'
  return config
