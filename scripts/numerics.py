"""One batch in float32 and in bfloat16: python -m scripts.numerics --config=F.

Prints how far each block's output and gradient move, and where a NaN or an
infinity arises first. --workdir takes a run's newest checkpoint in the place of
fresh parameters; --noise takes noise for pictures where the data isn't at hand.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A recipe, such as configs/nfnet_f0.py.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, "A run's folder.")
EXAMPLES = flags.DEFINE_integer('examples', 8, 'How many.', lower_bound=1)
NOISE = flags.DEFINE_bool('noise', False, 'Noise in the place of the data.')
ALL = flags.DEFINE_bool('all', False, 'Every module, not every block alone.')

REFUSED = 2


def main(argv: Sequence[str]) -> int:
  if len(argv) > 1 or CONFIG.value is None:
    return refuse('name a recipe: --config=configs/nfnet_f0.py')
  import jax

  from nfnets import factory, finetune
  from nfnets.analysis import numerics

  try:
    finetune.complete(CONFIG.value, WORKDIR.value)
    config = CONFIG.value.copy_and_resolve_references()
    with config.unlocked():
      config.model.remat = False  # recomputed blocks can't be looked into
      config.batch_size = EXAMPLES.value
    network = factory.network_of(config)
    images, labels = batch_of(config, EXAMPLES.value, NOISE.value)
    params, state, source = variables_of(config, network, WORKDIR.value)
  except (ValueError, OSError) as error:
    return refuse(str(error))
  rows, found = numerics.drift(
    network, params, state, jax.random.key(1), images, labels
  )
  print(f'{config.model.name}, {EXAMPLES.value} examples, {source}')
  print(numerics.format_drift(rows if ALL.value else numerics.blocks(rows)))
  sound = True
  for name, outputs in found.items():
    first = numerics.first_nonfinite(outputs)
    if first:
      sound = False
      print(f'{name}: the first NaN or infinity is in the output of {first}')
  for index, name in enumerate(found):
    bad = [row.module for row in rows if not row.finite[index]]
    if sound and bad:
      print(
        f'{name}: the first NaN or infinity is in the gradient of {bad[-1]}'
      )
  if all(all(row.finite) for row in rows):
    print('every output and gradient is finite')
  return 0


def batch_of(config: ConfigDict, count: int, noise: bool) -> tuple[Any, Any]:
  """Images `[N, H, W, 3]` as the network takes them and labels `[N, K]`."""
  import jax

  from nfnets import factory, step
  from nfnets.analysis import numerics
  from nfnets.data import pipeline

  key = jax.random.key(config.seed)
  size = config.data.train_image_size
  if noise:
    return numerics.noise_batch(key, count, size, config.data.num_classes)
  source, _ = factory.sources_of(config)
  fresh = 2 if config.augment.pairs == 'fresh' else 1
  batch = next(
    pipeline.train_batches(
      source,
      batch_size=count * fresh,
      image_size=size,
      crop=config.data.crop,
      flip=config.data.flip,
      seed=config.seed,
      start_step=0,
      num_threads=0,
      on_error=config.data.on_error,
    )
  )
  with config.unlocked():
    config.precision = 'float32'
  inputs = jax.jit(lambda k, b: step.augment_batch(config, k, b))(
    key, {name: batch[name] for name in ('images', 'labels')}
  )
  return inputs['images'], inputs['targets']


def variables_of(
  config: ConfigDict, network: Any, workdir: str | None
) -> tuple[Any, Any, str]:
  """Parameters, network state, and where they come from, in words."""
  import jax

  from nfnets import checkpoint, factory, step

  optimizer = factory.optimizer_of(config)

  def init(key: jax.Array) -> step.TrainState:
    return step.init_state(config, network, optimizer, key)

  key = jax.random.fold_in(jax.random.key(config.seed), 1)
  if workdir is None:
    state = jax.jit(init)(key)
    return state.params, state.state, 'fresh parameters'
  if not (pathlib.Path(workdir) / 'checkpoints').is_dir():
    raise ValueError(f'{workdir} holds no checkpoint')
  checkpoints = checkpoint.Checkpoints(workdir)
  state = checkpoints.restore_latest(jax.eval_shape(init, key))
  checkpoints.close()
  if state is None:
    raise ValueError(f'{workdir} holds no checkpoint')
  return state.params, state.state, f'step {int(state.step)} of {workdir}'


def refuse(why: str) -> int:
  print(f'error: {" ".join(why.split())}', file=sys.stderr)
  return REFUSED


if __name__ == '__main__':
  app.run(main)
