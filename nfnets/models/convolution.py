"""The convolution of every network here: one place to choose a formulation."""

from collections.abc import Sequence

import jax


def conv2d(
  images: jax.Array,
  weights: jax.Array,
  strides: Sequence[int] = (1, 1),
  groups: int = 1,
) -> jax.Array:
  """Convolves with TensorFlow's 'SAME' padding.

  Args:
    images: `[N, H, W, C]`.
    weights: `[kh, kw, C / groups, O]`.
    strides: of height and width.
    groups: that C and O are split into.

  Returns:
    `[N, ceil(H / stride), ceil(W / stride), O]`, of the images' type.
  """
  return jax.lax.conv_general_dilated(
    images,
    weights.astype(images.dtype),
    window_strides=tuple(strides),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )
