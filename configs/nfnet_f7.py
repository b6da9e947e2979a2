"""NFNet-F7 on ImageNet: only in the released code, without a published result.

As configs/nfnet_f0.py, with F7's depth, image sizes, dropout and RandAugment.
Not yet run here.
"""

from configs import nfnet_f0

get_config = lambda: nfnet_f0.get_config('nfnet_f7')
