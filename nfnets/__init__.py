"""Normalizer-Free Networks in JAX and Haiku.

`create` makes a network, `load` makes one with pretrained weights, and
`list_models` lists the names of both; `sgd`, `adaptive_grad_clip` and
`sharpness_aware` train any network. Submodules are imported on first use.
"""

import importlib
from typing import Any

__version__ = '0.1.0'
_PUBLIC = {
  'create': 'nfnets.models',
  'load': 'nfnets.hub',
  'list_models': 'nfnets.hub',
  'adaptive_grad_clip': 'nfnets.optim',
  'sgd': 'nfnets.optim',
  'sharpness_aware': 'nfnets.optim',
}
_MODULES = (
  'analysis', 'data', 'evaluate', 'finetune', 'hub', 'linear_probe', 'models',
  'optim', 'step', 'train', 'variants', 'weights',
)  # fmt: skip
__all__ = ['__version__', *_PUBLIC]


def __getattr__(name: str) -> Any:
  if name in _PUBLIC:
    return getattr(importlib.import_module(_PUBLIC[name]), name)
  if name in _MODULES:
    return importlib.import_module(f'nfnets.{name}')
  raise AttributeError(f'module nfnets has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *_PUBLIC, *_MODULES})
