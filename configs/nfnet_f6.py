"""NFNet-F6 on ImageNet, without SAM, though paper A reports F6 only with it.

As configs/nfnet_f0.py, with F6's depth, image sizes, dropout and RandAugment.
With SAM: 86.5 % top-1 (paper A, Table 3), 2,774.1 ms per step on TPUv3 at 32
images per core. Not yet run here.
"""

from configs import nfnet_f0

get_config = lambda: nfnet_f0.get_config('nfnet_f6')
