"""NF-ResNet-288 on ImageNet (paper B, Table 1).

As configs/nf_resnet_50.py, but deeper. According to notes on the paper,
it reaches 79.5 % top-1 with dropout (--config.model.drop_rate=0.25); without
dropout and stochastic depth, 2 of 5 runs collapsed at a learning rate of 0.4,
and none at 0.2. Not yet run here.
"""

from configs import nf_resnet_50

get_config = lambda: nf_resnet_50.get_config('nf_resnet_288')
