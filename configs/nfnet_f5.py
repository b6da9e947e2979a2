"""NFNet-F5 on ImageNet: 86.0 % top-1 (paper A, Table 3), from scratch.

As configs/nfnet_f0.py, with F5's depth, image sizes, dropout and RandAugment.
Paper A measured 1,398.5 ms per step on TPUv3 at 32 images per core:
112,602 steps take 43.7 hours on 128 cores. Not yet run here.
"""

from configs import nfnet_f0

get_config = lambda: nfnet_f0.get_config('nfnet_f5')
