"""PyTorch's side of `scripts.benchmark --against=timm`, which starts it.

Needs nothing but PyTorch and timm. It reads lines of JSON: the first describes
a network and how to run it; each further line gives a duration in seconds, and
the answer is the median time of a step. PyTorch runs with its fast settings:
channels-last memory and a fused optimizer, on CUDA also torch.compile,
autocast, TensorFloat-32 (XLA's default too) and cuDNN's autotuning.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nfnets.bench import clock


def main() -> None:
  job = json.loads(sys.stdin.readline())
  answer = lambda what: print(json.dumps(what), flush=True)
  try:
    model, run = program(job)
    run(1)
    answer(about(model))
    for line in sys.stdin:
      answer({'seconds': clock.median_step(run, **json.loads(line))})
  except Exception as error:  # of any type; reported in one line
    answer({'error': str(error).strip().partition('\n')[0] or repr(error)})


def program(job: dict[str, Any]) -> tuple[nn.Module, Callable[[int], None]]:
  """Returns the network and `run(count)`, which runs `count` steps."""
  torch.manual_seed(0)
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = True
  torch.set_float32_matmul_precision('high')
  model, head = network(job)
  model = model.to(device, memory_format=torch.channels_last)
  model.train(job['mode'] == 'train')
  mode = job['compile']
  forward = model if mode == 'none' else torch.compile(model, mode=mode)
  size, count = job['image_size'], job['batch_size']
  images = torch.randn(count, 3, size, size, device=device)
  images = images.to(memory_format=torch.channels_last)
  labels = torch.randint(0, 10, (count,), device=device)
  optimizer = sgd(model)
  clipped = [p for name, p in model.named_parameters() if name not in head]

  def logits() -> torch.Tensor:
    is_half = job['precision'] == 'bfloat16'
    with torch.autocast(device, torch.bfloat16, enabled=is_half):
      return forward(images)

  def train() -> None:
    loss = F.cross_entropy(logits().float(), labels, label_smoothing=0.1)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if job['clip'] == 'agc':
      from timm.utils.agc import adaptive_clip_grad

      adaptive_clip_grad(clipped, clip_factor=0.01)
    optimizer.step()

  infer = torch.inference_mode()(logits)
  step = train if job['mode'] == 'train' else infer

  def run(count: int) -> None:
    for _ in range(count):
      step()
    if device == 'cuda':
      torch.cuda.synchronize()

  return model, run


def about(model: nn.Module) -> dict[str, Any]:
  modules = [sys.modules[n] for n in ('torch', 'timm') if n in sys.modules]
  return {
    'versions': {module.__name__: module.__version__ for module in modules},
    'parameters': sum(p.numel() for p in model.parameters()),
  }


def sgd(model: nn.Module) -> torch.optim.Optimizer:
  """Nesterov momentum; decays weights, but not gains and biases."""
  weights = [p for p in model.parameters() if p.ndim > 1]
  others = [p for p in model.parameters() if p.ndim <= 1]
  groups = [{'params': weights, 'weight_decay': 2e-5}, {'params': others}]
  return torch.optim.SGD(groups, 1e-3, 0.9, nesterov=True, fused=True)


def network(job: dict[str, Any]) -> tuple[nn.Module, set[str]]:
  """Returns the network and the names of its head's parameters."""
  if job['peer'] == 'cifar_resnet':
    return cifar_resnet(job['network']['depths']), {'head.weight', 'head.bias'}
  import timm

  drops = {'drop_path_rate': 0.25} if job['mode'] == 'train' else {}
  model = timm.create_model(job['peer'], **drops)
  return model, {'head.fc.weight', 'head.fc.bias'}


def cifar_resnet(depths: list[int]) -> nn.Module:
  """He et al. 2015, section 4.2, with option A shortcuts."""
  layers: list[nn.Module] = [conv(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU()]
  channels = 16
  for width, depth in zip((16, 32, 64), depths, strict=True):
    for index in range(depth):
      stride = 2 if index == 0 and width > 16 else 1
      layers.append(BasicBlock(channels, width, stride))
      channels = width
  model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
  model.add_module('head', nn.Linear(64, 10))
  return model


class BasicBlock(nn.Module):
  """relu(x' + bn(conv(relu(bn(conv(x))))))."""

  def __init__(self, channels: int, width: int, stride: int) -> None:
    super().__init__()
    self.stride, self.more = stride, width - channels
    self.branch = nn.Sequential(
      conv(channels, width, stride), nn.BatchNorm2d(width), nn.ReLU(),
      conv(width, width, 1), nn.BatchNorm2d(width),
    )  # fmt: skip

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    shortcut = x[:, :, :: self.stride, :: self.stride]
    if self.more:
      shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.more))
    return F.relu(self.branch(x) + shortcut)


def conv(channels: int, width: int, stride: int) -> nn.Conv2d:
  return nn.Conv2d(channels, width, 3, stride, 1, bias=False)


if __name__ == '__main__':
  main()
