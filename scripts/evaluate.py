"""Evaluates a run or a file of weights: top-1 and top-5 accuracy, and loss.

  python -m scripts.evaluate --workdir=DIR
  python -m scripts.evaluate --config=FILE (--workdir=DIR | --weights=FILE)

A run is evaluated as it was trained, with its last and its averaged parameters.
A config that is given besides selects other data or another way to prepare
them; it must describe the run's network. FILE is anything that scripts.convert
reads; DIR and FILE may be in a bucket. Normalizer-free networks are folded
first. Several processes evaluate together, as in scripts.train, and process 0
prints. Exit codes: 0 evaluated, 2 refused or failed.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from scripts import common

CONFIG = common.config_flag()
WORKDIR = flags.DEFINE_string('workdir', None, "A run's folder.")
WEIGHTS = flags.DEFINE_string(
  'weights', None, "The weights: a name, a file, or a run's folder."
)
FOLD = flags.DEFINE_bool(
  'fold',
  True,
  'Standardize the weights of a normalizer-free network once, in advance.',
)
JSON = flags.DEFINE_bool('json', False, 'Print the metrics as JSON.')
PROCESSES = common.process_flags()


def main() -> int:
  if bool(WORKDIR.value) == bool(WEIGHTS.value):
    raise ValueError('set either --workdir=DIR or --weights=FILE')
  import jax

  from nfnets import bucket, distributed
  from nfnets.weights import accuracy

  distributed.initialize(**PROCESSES())
  with (
    distributed.agreement(),
    bucket.fetched(WORKDIR.value or '') as workdir,
  ):
    config = complete_config(workdir if WORKDIR.value else None)
    say = common.note if jax.process_index() == 0 else lambda text: None
    candidates = read_weights(config, workdir, say)
  metrics = accuracy.measure(config, candidates, FOLD.value, say)
  if jax.process_index() > 0:
    return 0
  if JSON.value:
    print(json.dumps(metrics, indent=1))
  else:
    for prefix in candidates:
      print(line(prefix, metrics))
  return 0


def complete_config(workdir: pathlib.Path | None) -> ConfigDict:
  """The run's own config, or --config completed from the weights or the run."""
  from configs import base
  from nfnets import checks, finetune
  from nfnets.workdir import RunFolder, completed

  if CONFIG.value is None and workdir:
    own = RunFolder(workdir).require_config()
    own = ConfigDict(completed(own, base.defaults()))
    return checks.resolve(own, trains=False)
  config = common.needed(CONFIG, 'configs/nfnet_f0.py')
  if WEIGHTS.value and not config.model.name:
    config.weights = WEIGHTS.value  # the file knows its network
  finetune.complete(config, workdir, trains=False)
  return checks.resolve(config, trains=False)


def read_weights(
  config: ConfigDict, workdir: pathlib.Path, say: Callable[[str], None]
) -> dict[str, Any]:
  """The weights to evaluate, by the prefix of their metrics."""
  from nfnets import weights
  from nfnets.weights import files, pictures

  if WORKDIR.value:
    return weights.of_run(workdir, config if CONFIG.value else None)
  found = weights.load(WEIGHTS.value)
  say(found.note)
  files.require_head(found, WEIGHTS.value)
  own = pictures.image_size(found), pictures.crop_name(found)
  if own != (config.data.eval_image_size, config.data.eval_preprocessing):
    say(
      f'the weights were made for {own[0]} pixels, '
      f'{pictures.crop_words(own[1])}; to evaluate them so, use '
      '--config=configs/finetune.py, which takes both from the weights'
    )
  return {'eval': found}


def line(prefix: str, metrics: dict[str, Any]) -> str:
  return (
    f'{prefix:<9} top-1 {100 * metrics[f"{prefix}/top_1"]:.2f} %  '
    f'top-5 {100 * metrics[f"{prefix}/top_5"]:.2f} %  '
    f'loss {metrics[f"{prefix}/loss"]:.4f}  '
    f'of {metrics[f"{prefix}/count"]:.0f} examples'
  )


if __name__ == '__main__':
  common.run(main)
