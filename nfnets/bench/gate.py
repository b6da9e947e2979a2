"""Our formulations beside plain ones of the same function, in one process.

Ratios alone, never times: a machine's speed cancels.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax import lax
from ml_collections import ConfigDict

from nfnets.bench import clock, programs, report, step_time
from nfnets.models import convolution


class Case(NamedTuple):
  """What is compared: a model's step as it is, and in a plain form."""

  model: str
  batch_size: int
  image_size: int
  mode: str
  overrides: Mapping[str, Any]


F0 = {'depths': (1, 1, 1, 1)}
CASES = {
  'F0 of 4 blocks, training': Case('nfnet_f0', 2, 96, 'train', F0),
  'F0 of 4 blocks, folded': Case('nfnet_f0', 2, 128, 'folded', F0),
  'ResNet-20, training': Case('cifar_resnet_20', 32, 32, 'train', {}),
}


def measure(
  recipe_of: Callable[[str], ConfigDict],
  rounds: int = 5,
  seconds: float = 1.0,
  cases: Mapping[str, Case] = CASES,
) -> dict[str, dict[str, float]]:
  """Times every case's two sides in turn.

  The plain side is what one would write first: a single XLA convolution with
  its own gradient; for folded inference, the network that isn't folded.

  Args:
    recipe_of: a model's recipe.
    rounds: turns of each side.
    seconds: of a turn.
    cases: by name.

  Returns:
    Of each case the median, lowest and highest ratio of our time to the plain
    one's.
  """
  found = {}
  for name, case in cases.items():
    ours = _program(case, recipe_of).run
    with plainly():
      mode = 'eval' if case.mode == 'folded' else case.mode
      plain = _program(case._replace(mode=mode), recipe_of).run
    ratios = []
    for number in range(rounds):
      sides = [ours, plain][:: -1 if number % 2 else 1]
      times = [_turn(side, seconds) for side in sides]
      if number % 2:
        times.reverse()
      ratios.append(times[0] / times[1])
    found[name] = {
      'median': clock.median(ratios),
      'low': min(ratios),
      'high': max(ratios),
    }
  return found


@contextlib.contextmanager
def plainly() -> Iterator[None]:
  """Within the block, networks are traced with XLA's own convolutions."""
  ours = convolution.conv2d
  convolution.conv2d = plain
  try:
    yield
  finally:
    convolution.conv2d = ours


def plain(
  images: jax.Array,
  weights: jax.Array,
  strides: tuple[int, int] = (1, 1),
  groups: int = 1,
) -> jax.Array:
  """`convolution.conv2d` as one convolution that JAX differentiates."""
  return lax.conv_general_dilated(
    images,
    weights.astype(images.dtype),
    window_strides=tuple(strides),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def _program(
  case: Case, recipe_of: Callable[[str], ConfigDict]
) -> programs.Program:
  return programs.prepare(
    case.model,
    case.batch_size,
    case.image_size,
    'float32',
    case.mode,
    config=recipe_of(case.model),
    clip=step_time.default_clip(case.model, case.overrides),
    overrides=case.overrides,
  )


def _turn(run: Callable[[int], None], seconds: float) -> float:
  times, _ = step_time.time_chunks(run, 10**9, seconds, 1)
  return clock.median(times)


def page(found: Mapping[str, Mapping[str, float]]) -> str:
  """The ratios as a table."""
  rows = [
    [name, f'{r["median"]:.2f}', f'{r["low"]:.2f} to {r["high"]:.2f}']
    for name, r in found.items()
  ]
  return report.table(['ours / plain', 'median', 'lowest to highest'], rows)
