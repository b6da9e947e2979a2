"""NF-RegNet-B1 on ImageNet: about 78.7 % top-1 (paper B, Figure 3).

As configs/nf_regnet_b0.py, with B1's depth, widths, image sizes, dropout and
weight decay. The accuracy was read off the figure. Not yet run here.
"""

from configs import nf_regnet_b0

get_config = lambda: nf_regnet_b0.get_config('nf_regnet_b1')
