"""NFNet-F2 on ImageNet: 85.1 % top-1 (paper A, Table 3), from scratch.

As configs/nfnet_f0.py, with F2's depth, image sizes, dropout and RandAugment.
Paper A measured 295.8 ms per step on TPUv3 at 32 images per core:
112,602 steps take 9.3 hours on 128 cores. Not yet run here.
"""

from configs import nfnet_f0

get_config = lambda: nfnet_f0.get_config('nfnet_f2')
