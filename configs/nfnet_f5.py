"""NFNet-F5 on ImageNet: 86.0 % top-1 (paper A, Table 3), from scratch.

As configs/nfnet_f0.py, with F5's depth, image sizes, dropout and RandAugment.
Paper A measured 1398.5 ms a step on TPUv3 at 32 images a core:
112,602 steps are 43.7 hours of 128 cores. Not yet run here.
"""

import functools

from configs import nfnet_f0

get_config = functools.partial(nfnet_f0.get_config, 'nfnet_f5')
