"""NF-ResNet-101 on ImageNet (paper B, Table 1).

As configs/nf_resnet_50.py, but deeper. No published accuracy of it could be
verified. Not yet run here.
"""

from configs import nf_resnet_50

get_config = lambda: nf_resnet_50.get_config('nf_resnet_101')
