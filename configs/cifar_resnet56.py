"""ResNet-56 on CIFAR-10, as He et al. trained it: 93.03 % (paper D, Table 6).

As configs/cifar_resnet20.py, but deeper. Not yet run here.
"""

from configs import cifar_resnet20

get_config = lambda: cifar_resnet20.get_config('cifar_resnet_56')
