"""TensorFlow's side of `scripts.benchmark --input`, which runs it by itself.

Needs TensorFlow and NumPy alone, so that any interpreter that has them will do.
The first line on stdin is the job, each further one a question; answers are
lines of JSON. Two subjects:

- `decode`: decode the crop, flip, resize: what `nfnets.data.pipeline` does.
- `published`: the published recipe of arXiv 2102.06171 on the host: two decoded
  images for each one out, MixUp and CutMix, RandAugment, normalize.

Where the published code leaves a choice, the faster is taken: RandAugment picks
its operation by one switch instead of 16 conditionals, and geometry fills with
grey by itself instead of carrying a mask along.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

GREY = 128


def main() -> None:
  job = json.loads(sys.stdin.readline())
  with np.load(job['path']) as stored:
    content, ends = stored['content'].tobytes(), stored['ends'].tolist()
    labels = stored['labels']
  files = [content[a:b] for a, b in zip([0, *ends], ends)]
  examples = tf.data.Dataset.from_tensor_slices((files, labels)).repeat()
  subjects: dict[tuple[str, int], Iterator[Any]] = {}
  answer = lambda what: print(json.dumps(what), flush=True)
  answer({'tensorflow': tf.__version__})
  for line in sys.stdin:
    question = json.loads(line)
    key = question['subject'], question['threads']
    try:
      if key not in subjects:
        subjects[key] = iter(dataset(examples, job, *key))
      answer(measure(subjects[key], question['seconds']))
    except tf.errors.OpError as error:
      answer({'error': error.message.splitlines()[0]})


def measure(batches: Iterator[Any], seconds: float) -> dict[str, float]:
  """Takes batches for so long, after a quarter of it unmeasured."""
  start = time.perf_counter()
  while time.perf_counter() - start < seconds / 4:
    next(batches)
  images, start, cpu = 0, time.perf_counter(), time.process_time()
  while time.perf_counter() - start < seconds:
    images += int(next(batches)[0].shape[0])
  return {
    'images': images,
    'wall': time.perf_counter() - start,
    'cpu': time.process_time() - cpu,
  }


def dataset(
  examples: tf.data.Dataset, job: dict[str, Any], subject: str, threads: int
) -> tf.data.Dataset:
  """Batches of (images, labels), computed by so many threads."""
  if subject == 'decode':
    made = decoded(examples, job, threads)
  else:
    made = published(examples, job, threads)
  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  return made.with_options(options)


def decoded(
  examples: tf.data.Dataset, job: dict[str, Any], threads: int
) -> tf.data.Dataset:
  def load(data: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.saturate_cast(read(data, job), tf.uint8), label

  loaded = examples.map(load, num_parallel_calls=threads)
  if job['cache']:
    loaded = loaded.take(job['count']).cache().repeat()
  return loaded.batch(job['batch_size'], drop_remainder=True)


def read(data: tf.Tensor, job: dict[str, Any]) -> tf.Tensor:
  """An encoded image to [S, S, 3], float32 where it was resized."""
  size = job['image_size']
  if job['crop'] == 'inception':
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
      tf.io.extract_jpeg_shape(data),
      tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
      min_object_covered=0.1,
      aspect_ratio_range=(3 / 4, 4 / 3),
      area_range=(0.08, 1.0),
      max_attempts=10,
    )
    window = tf.concat([begin[:2], extent[:2]], 0)
    image = tf.io.decode_and_crop_jpeg(data, window, channels=3)
  else:
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    image = tf.ensure_shape(image, [None, None, 3])
  if job['flip']:
    image = tf.image.random_flip_left_right(image)
  if job['resize']:
    image = tf.image.resize(image, [size, size], 'bicubic')
  return tf.ensure_shape(image, [size, size, 3])


def published(
  examples: tf.data.Dataset, job: dict[str, Any], threads: int
) -> tf.data.Dataset:
  size, count = job['image_size'], job['batch_size']

  def load(data: tf.Tensor, label: tf.Tensor) -> tuple:
    label = tf.one_hot(label, job['num_classes'])
    image = tf.cast(read(data, job), tf.float32)
    gammas = tf.random.gamma([2], 0.2) + 1e-30  # the first's share: Beta
    return image, label, gammas[0] / tf.reduce_sum(gammas), mask(size)

  def finish(image: tf.Tensor, label: tf.Tensor) -> tuple:
    image = tf.saturate_cast(image, tf.uint8)
    image = rand_augment(image, job['layers'], job['magnitude'])
    mean, std = tf.constant(job['mean']), tf.constant(job['std'])
    return (tf.cast(image, tf.float32) - mean) / std, label

  return (
    examples.map(load, num_parallel_calls=threads)
    .batch(2 * count, drop_remainder=True)
    .map(mix, num_parallel_calls=threads)
    .unbatch()
    .map(finish, num_parallel_calls=threads)
    .batch(count, drop_remainder=True)
  )


def mask(size: int) -> tf.Tensor:
  """[S, S, 1]: 1 in a box of area U(0, 1) about a uniform centre, else 0."""
  half = tf.cast(tf.sqrt(tf.random.uniform([])) * size, tf.int32) // 2
  centre = tf.random.uniform([2], 0, size, tf.int32)
  near = [tf.abs(tf.range(size) - centre[i]) < half for i in range(2)]
  return tf.cast(near[0][:, None] & near[1], tf.float32)[..., None]


def mix(
  images: tf.Tensor, labels: tf.Tensor, ratios: tf.Tensor, masks: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Quarters 1 and 2 by MixUp, 3 and 4 by CutMix: [2 N, ...] to [N, ...]."""
  a, b, c, d = tf.split(images, 4)
  label_a, label_b, label_c, label_d = tf.split(labels, 4)
  box = tf.split(masks, 4)[2]
  first = tf.split(ratios, 4)[0]
  share = tf.reduce_mean(box, [1, 2])
  blend = first[:, None, None, None]
  mixed = [blend * a + (1 - blend) * b, (1 - box) * c + box * d]
  soft = [
    first[:, None] * label_a + (1 - first[:, None]) * label_b,
    (1 - share) * label_c + share * label_d,
  ]
  return tf.concat(mixed, 0), tf.concat(soft, 0)


def rand_augment(image: tf.Tensor, layers: int, magnitude: float) -> tf.Tensor:
  """Applies so many operations, each uniform among 16, to uint8 [H, W, 3]."""
  for _ in range(layers):
    sign = tf.where(tf.random.uniform([]) < 0.5, -1.0, 1.0)
    centre = tf.random.uniform([2])
    which = tf.random.uniform([], 0, 16, tf.int32)
    branches = operations(image, magnitude, sign, centre)
    image = tf.switch_case(which, list(branches.values()))
    image = tf.ensure_shape(image, [None, None, 3])
  return image


def operations(
  image: tf.Tensor, magnitude: float, sign: tf.Tensor, centre: tf.Tensor
) -> dict[str, Callable[[], tf.Tensor]]:
  """The 16 by name, on uint8 [H, W, 3], at the published arguments."""
  share = magnitude / 10
  factor = 1.8 * share + 0.1
  angle = share * math.pi / 6
  bits = min(int(4 * share), 8)
  threshold, addition = int(256 * share), int(110 * share)
  step = lambda: tf.cast(image, tf.int32)
  return {
    'auto_contrast': lambda: per_channel(stretch, image),
    'equalize': lambda: per_channel(equalize, image),
    'invert': lambda: 255 - image,
    'rotate': lambda: rotate(image, sign * angle),
    'posterize': lambda: image & tf.constant(256 - (1 << (8 - bits)), tf.uint8),
    'solarize': lambda: tf.where(step() < threshold, image, 255 - image),
    'color': lambda: blend(
      tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image)), image, factor
    ),
    'contrast': lambda: blend(count_over_256(image), image, factor),
    'brightness': lambda: blend(tf.zeros_like(image), image, factor),
    'sharpness': lambda: blend(smooth(image), image, factor),
    'shear_x': lambda: warp(image, [1, sign * 0.3 * share, 0, 0, 1, 0]),
    'shear_y': lambda: warp(image, [1, 0, 0, sign * 0.3 * share, 1, 0]),
    'translate_x': lambda: warp(image, [1, 0, -sign * 100 * share, 0, 1, 0]),
    'translate_y': lambda: warp(image, [1, 0, 0, 0, 1, -sign * 100 * share]),
    'cutout': lambda: cutout(image, int(40 * share), centre),
    'solarize_add': lambda: tf.where(
      step() < 128, tf.saturate_cast(step() + addition, tf.uint8), image
    ),
  }


def blend(base: tf.Tensor, image: tf.Tensor, factor: float) -> tf.Tensor:
  base, image = tf.cast(base, tf.float32), tf.cast(image, tf.float32)
  return tf.saturate_cast(base + factor * (image - base), tf.uint8)


def count_over_256(image: tf.Tensor) -> tf.Tensor:
  """The number of pixels / 256, which the release takes for the mean level."""
  grey = tf.cast(tf.image.rgb_to_grayscale(image), tf.int32)
  counts = tf.histogram_fixed_width(grey, [0, 255], 256)
  mean = tf.reduce_sum(tf.cast(counts, tf.float32)) / 256
  return tf.clip_by_value(mean, 0, 255)


def per_channel(
  function: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor
) -> tf.Tensor:
  return tf.stack([function(image[..., c]) for c in range(3)], -1)


def stretch(plane: tf.Tensor) -> tf.Tensor:
  plane = tf.cast(plane, tf.float32)
  low, high = tf.reduce_min(plane), tf.reduce_max(plane)
  scaled = (plane - low) * (255 / tf.maximum(high - low, 1))
  return tf.saturate_cast(tf.where(high > low, scaled, plane), tf.uint8)


def equalize(plane: tf.Tensor) -> tf.Tensor:
  levels = tf.cast(plane, tf.int32)
  counts = tf.histogram_fixed_width(levels, [0, 255], 256)
  last = counts[tf.reduce_max(levels)]
  step = (tf.size(plane) - last) // 255
  below = tf.cumsum(counts, exclusive=True)
  table = (below + step // 2) // tf.maximum(step, 1)
  table = tf.where(step > 0, table, tf.range(256))
  return tf.gather(tf.saturate_cast(table, tf.uint8), levels)


def smooth(image: tf.Tensor) -> tf.Tensor:
  """3 x 3 mean with a five-fold centre; the border as it was."""
  kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
  kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
  inner = tf.nn.depthwise_conv2d(
    tf.cast(image, tf.float32)[None], kernel, [1, 1, 1, 1], 'VALID'
  )
  inner = tf.pad(tf.saturate_cast(inner[0], tf.uint8), [[1, 1], [1, 1], [0, 0]])
  shape = tf.shape(image)
  inside = tf.pad(
    tf.ones([shape[0] - 2, shape[1] - 2, 1], tf.bool), [[1, 1], [1, 1], [0, 0]]
  )
  return tf.where(inside, inner, image)


def rotate(image: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
  shape = tf.cast(tf.shape(image), tf.float32)
  y, x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
  cos, sin = tf.cos(angle), tf.sin(angle)
  return warp(
    image,
    [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y],
  )


def warp(image: tf.Tensor, affine: list[float | tf.Tensor]) -> tf.Tensor:
  """Output pixel (x, y) takes input (a x + b y + c, d x + e y + f)."""
  transform = tf.stack([tf.cast(v, tf.float32) for v in [*affine, 0, 0]])
  return tf.raw_ops.ImageProjectiveTransformV3(
    images=image[None],
    transforms=transform[None],
    output_shape=tf.shape(image)[:2],
    fill_value=float(GREY),
    interpolation='NEAREST',
    fill_mode='CONSTANT',
  )[0]


def cutout(image: tf.Tensor, half: int, centre: tf.Tensor) -> tf.Tensor:
  shape = tf.shape(image)[:2]
  middle = tf.cast(centre * tf.cast(shape, tf.float32), tf.int32)
  low, high = tf.maximum(middle - half, 0), tf.minimum(middle + half, shape)
  around = tf.stack([low, shape - high], 1)
  hole = tf.pad(tf.zeros(high - low, tf.bool), around, constant_values=True)
  return tf.where(hole[..., None], image, tf.constant(GREY, tf.uint8))


if __name__ == '__main__':
  main()
