"""Makes timm.json: what timm's networks compute, for tests without torch.

  python tests/golden/make_timm.py     (with timm 1.0.31 and PyTorch, on a CPU)

Every entry of a state_dict is filled by the rule of tests/filling.py from its
own name; networks of more than 20 blocks get stages of one or two. Written of
each: parameters (of 1,000 classes), and of the filled network of ten classes in
evaluation on two images of 64 pixels the logits, and of each feature map that
`features_only` lists shape, norm and first values. Of one of each kind besides,
in training and double precision (a batch norm of float32 weights is off by
2e-4 there), the norm of each entry's gradient of `sum(logits * z)`.
"""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import timm
import torch
from timm.models import nfnet

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import filling  # noqa: E402

FILE = pathlib.Path(__file__).with_name('timm.json')
# One of each kind; the others of a kind differ in depths and widths.
KINDS = (
  'dm_nfnet_f0', 'nfnet_f0', 'eca_nfnet_l0', 'nf_resnet26', 'nf_seresnet26',
  'nf_ecaresnet26', 'nf_regnet_b0', 'test_nfnet',
)  # fmt: skip
SHORT = (2, 1, 1, 1)


def main():
  torch.manual_seed(0)
  found = {}
  for name in timm.list_models(module='nfnet'):
    with torch.device('meta'):
      whole = timm.create_model(name)
    count = sum(x.numel() for x in whole.parameters())
    depths = [len(stage) for stage in whole.stages]
    depths = depths if sum(depths) <= 20 else list(SHORT)
    config = nfnet.model_cfgs[name]
    config = dataclasses.replace(config, depths=tuple(depths))
    network = filled(nfnet.NormFreeNet(config, num_classes=10))
    found[name] = {'parameters': count, 'depths': depths, **outputs(network)}
    if name in KINDS:
      found[name]['gradient_norms'] = gradients(network)
    print(name, count, flush=True)
  lines = [f'"{name}": {json.dumps(row)}' for name, row in found.items()]
  FILE.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


def filled(network):
  state = {
    name: torch.from_numpy(filling.entry(name, tuple(x.shape)))
    for name, x in network.state_dict().items()
  }
  network.load_state_dict(state, strict=True)
  return network


def batch():
  images = filling.images((2, 64, 64, 3)).transpose(0, 3, 1, 2)
  return torch.from_numpy(np.ascontiguousarray(images))


def outputs(network):
  maps = {}

  def keep(stride):
    def hook(module, inputs, output):
      x = output.detach().permute(0, 2, 3, 1).numpy()
      maps[stride] = {
        'shape': list(x.shape),
        'norm': round_(np.linalg.norm(x)),
        'first': [round_(value) for value in x[1, 0, 0, :3]],
      }

    return hook

  for row in network.feature_info:
    module = network.get_submodule(row['module'])
    module.register_forward_hook(keep(row['reduction']))
  with torch.no_grad():
    logits = network.eval()(batch()).numpy()
  return {'logits': [[round_(x) for x in row] for row in logits],
          'features': maps}  # fmt: skip


def gradients(network):
  logits = network.double().train()(batch().double())
  z = torch.from_numpy(np.random.RandomState(1).standard_normal((2, 10)))
  (logits * z.float().double()).sum().backward()
  return {
    name: round_(x.grad.norm().item()) for name, x in network.named_parameters()
  }


def round_(x):
  return float(f'{x:.6g}')


if __name__ == '__main__':
  main()
