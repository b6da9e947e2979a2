"""Fine-tunes an NFNet-F4+ on ImageNet as in paper A, section A.5, with SAM.

The schedule of configs/jft_finetune.py, regularized: 89.2 % top-1 from JFT-300M
(Table 5). Those weights aren't public, so this result can't be reproduced here.
The image sizes are F4's, because A.5 states none for F4+.
"""

from ml_collections import ConfigDict

from configs import jft_finetune, nfnet_f0


def get_config() -> ConfigDict:
  """The NFNets' recipe with A.5's fine-tuning of F4+."""
  config = jft_finetune.schedule(nfnet_f0.get_config('nfnet_f4_plus'))
  config.model.exact_width = True  # the paper's 527 M parameters
  return jft_finetune.regularize(config)
