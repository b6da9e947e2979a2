"""PyTorch's side of `scripts.benchmark --against=timm`, which starts it itself.

Needs PyTorch and timm alone, so that any interpreter that has them will do.
Lines of JSON: the job names a network and how it is run; each question gives
seconds, and is answered by the median seconds of a step.

What a device likes is used: channels-last memory; on CUDA torch.compile,
autocast to bfloat16, TensorFloat-32 for float32 (XLA's default too), cuDNN's
search for the fastest convolutions; SGD in one fused kernel.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def main() -> None:
  job = json.loads(sys.stdin.readline())
  answer = lambda what: print(json.dumps(what), flush=True)
  try:
    start = time.perf_counter()
    run = step_of(job)
    run(1)
    answer(about(job) | {'seconds_to_first': time.perf_counter() - start})
    for line in sys.stdin:
      answer(measure(run, **json.loads(line)))
  except Exception as error:  # whatever PyTorch says, in one line
    answer({'error': str(error).strip().partition('\n')[0] or repr(error)})


def about(job: dict[str, Any]) -> dict[str, Any]:
  versions = {'torch': torch.__version__}
  if 'timm' in sys.modules:
    versions['timm'] = sys.modules['timm'].__version__
  peak = 0
  if torch.cuda.is_available():
    peak = torch.cuda.max_memory_allocated()
  return {'versions': versions, 'compile': job['compile'], 'peak_bytes': peak}


def measure(
  run: Callable[[int], None], seconds: float, chunk_seconds: float
) -> dict[str, Any]:
  """Median seconds of a step over chunks of steps, after one unmeasured."""
  start = time.perf_counter()
  run(1)
  chunk = max(1, round(chunk_seconds / (time.perf_counter() - start)))
  times, begin = [], time.perf_counter()
  while not times or time.perf_counter() - begin < seconds:
    start = time.perf_counter()
    run(chunk)
    times.append((time.perf_counter() - start) / chunk)
  return {'seconds': statistics.median(times), 'steps': len(times) * chunk}


def step_of(job: dict[str, Any]) -> Callable[[int], None]:
  """Builds the network and its data; returns `run(steps)`."""
  torch.manual_seed(0)
  on_gpu = torch.cuda.is_available()
  device = 'cuda' if on_gpu else 'cpu'
  torch.backends.cudnn.benchmark = True
  torch.set_float32_matmul_precision('high')
  torch.backends.cudnn.allow_tf32 = True
  model, head = network(job)
  model = model.to(device, memory_format=torch.channels_last)
  size, count = job['image_size'], job['batch_size']
  images = torch.randn(count, 3, size, size, device=device)
  images = images.to(memory_format=torch.channels_last)
  labels = torch.randint(0, 10, (count,), device=device)
  cast = lambda: torch.autocast(
    device, torch.bfloat16, enabled=job['precision'] == 'bfloat16'
  )
  wait = torch.cuda.synchronize if on_gpu else lambda: None
  training = job['mode'] == 'train'
  model.train(training)
  forward = model
  if job['compile'] != 'none':
    forward = torch.compile(model, mode=job['compile'])
  if not training:

    def infer(steps: int) -> None:
      with torch.inference_mode(), cast():
        for _ in range(steps):
          forward(images)
      wait()

    return infer
  optimizer = sgd(model)
  clipped = [p for n, p in model.named_parameters() if n not in head]

  def train(steps: int) -> None:
    for _ in range(steps):
      with cast():
        logits = forward(images)
      loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
      optimizer.zero_grad(set_to_none=True)
      loss.backward()
      if job['clip'] == 'agc':
        from timm.utils.agc import adaptive_clip_grad

        adaptive_clip_grad(clipped, clip_factor=0.01)
      optimizer.step()
    wait()

  return train


def sgd(model: nn.Module) -> torch.optim.Optimizer:
  """Nesterov momentum; weights are decayed, gains and biases aren't."""
  weights = [p for p in model.parameters() if p.ndim > 1]
  others = [p for p in model.parameters() if p.ndim <= 1]
  groups = [
    {'params': weights, 'weight_decay': 2e-5},
    {'params': others, 'weight_decay': 0.0},
  ]
  return torch.optim.SGD(groups, 1e-3, 0.9, nesterov=True, fused=True)


def network(job: dict[str, Any]) -> tuple[nn.Module, set[str]]:
  """The network, and the names of its head's parameters."""
  if job['peer'] == 'cifar_resnet':
    return CIFARResNet(job['depths']), {'head.weight', 'head.bias'}
  import timm

  arguments = {} if job['mode'] != 'train' else {'drop_path_rate': 0.25}
  model = timm.create_model(job['peer'], **arguments)
  return model, {'head.fc.weight', 'head.fc.bias'}


class CIFARResNet(nn.Module):
  """He et al. 2015, section 4.2, with option A shortcuts."""

  def __init__(self, depths: list[int]) -> None:
    super().__init__()
    self.stem, self.stem_norm = conv(3, 16, 1), nn.BatchNorm2d(16)
    blocks, channels = [], 16
    for width, depth in zip((16, 32, 64), depths, strict=True):
      for index in range(depth):
        stride = 2 if index == 0 and width > 16 else 1
        blocks.append(BasicBlock(channels, width, stride))
        channels = width
    self.blocks = nn.Sequential(*blocks)
    self.head = nn.Linear(64, 10)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = self.blocks(F.relu(self.stem_norm(self.stem(x))))
    return self.head(x.mean((2, 3)))


class BasicBlock(nn.Module):
  """relu(x' + bn(conv(relu(bn(conv(x))))))."""

  def __init__(self, channels: int, width: int, stride: int) -> None:
    super().__init__()
    self.stride, self.more = stride, width - channels
    self.conv0, self.norm0 = (
      conv(channels, width, stride),
      nn.BatchNorm2d(width),
    )
    self.conv1, self.norm1 = conv(width, width, 1), nn.BatchNorm2d(width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    branch = F.relu(self.norm0(self.conv0(x)))
    branch = self.norm1(self.conv1(branch))
    if self.stride > 1:
      x = x[:, :, :: self.stride, :: self.stride]
    if self.more:
      x = F.pad(x, (0, 0, 0, 0, 0, self.more))
    return F.relu(x + branch)


def conv(channels: int, width: int, stride: int) -> nn.Conv2d:
  return nn.Conv2d(channels, width, 3, stride, 1, bias=False)


if __name__ == '__main__':
  main()
