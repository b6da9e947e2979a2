"""NF-ResNet-200 on ImageNet (paper B, Table 1).

As configs/nf_resnet_50.py, but deeper. Paper A has 79.5 % top-1 at batch 1,024
(read off Figure 2a). Not yet run here.
"""

from configs import nf_resnet_50

get_config = lambda: nf_resnet_50.get_config('nf_resnet_200')
