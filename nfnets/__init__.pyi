from nfnets.hub import list_models as list_models
from nfnets.hub import load as load
from nfnets.models import create as create
from nfnets.optim import adaptive_grad_clip as adaptive_grad_clip
from nfnets.optim import sgd as sgd
from nfnets.optim import sharpness_aware as sharpness_aware

__version__: str
