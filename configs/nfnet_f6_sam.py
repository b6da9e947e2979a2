"""NFNet-F6 with SAM on ImageNet: 86.5 % top-1 (paper A, Table 3).

As configs/nfnet_f5_sam.py, with F6's depth, image sizes, dropout and
RandAugment; rho isn't published, as explained there. Paper A measured 2,774.1
ms per step on TPUv3 at 32 images per core: 112,602 steps take 86.8 hours on 128
cores. Not yet run here.
"""

from configs import nfnet_f5_sam

get_config = lambda: nfnet_f5_sam.get_config('nfnet_f6')
