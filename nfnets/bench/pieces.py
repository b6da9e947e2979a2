"""Time and memory that each feature of a recipe adds to a plain step."""

import functools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from nfnets import checks
from nfnets.bench import clock, programs

NEVER = 10**9
PIECES = {
  'AGC': {'optimizer.clip': 'agc'},
  'SAM on 0.2 of the batch': {'sam.rho': 0.05, 'sam.ascent_fraction': 0.2},
  'SAM on the whole batch': {'sam.rho': 0.05, 'sam.ascent_fraction': 1.0},
  'EMA': {'ema.mode': 'warmup'},
  'guard against non-finite steps': {'stop_after_nonfinite': 2},
  'AGC observed, a step between': {'observe_every': NEVER},
  'AGC observed, each step': {'observe_every': 1},
  '2 micro-batches': {'micro_batches': 2},
  '4 micro-batches': {'micro_batches': 4},
  'rematerialization': {'model.remat': True},
}


def measure(
  config: ConfigDict, rounds: int = 5, seconds: float = 1.0
) -> dict[str, dict[str, Any]]:
  """Times a plain step and a step with one more feature in turn, for each.

  Args:
    config: a resolved recipe.
    rounds: number of turns of each of the two.
    seconds: duration of a turn.

  Returns:
    For each feature, `ratio`, the step's time over the plain step's (as
    `clock.spread`), and `temp`, the compiler's count of temporary bytes.
    'plain' also has `seconds` per step, over all turns.
  """
  augment = {f'augment.{key}': value for key, value in config.augment.items()}
  pieces = {**PIECES, "the recipe's augmentation": augment}
  configs = {
    name: with_piece(config, values) for name, values in pieces.items()
  }
  for changed in configs.values():  # before anything is measured
    checks.check(changed, 1)
  plain = programs.training(with_piece(config, {}))
  found, plain_seconds = {}, []
  for name, changed in configs.items():
    program = programs.training(changed)
    pair = {'plain': plain.run, name: program.run}
    turns = {
      side: functools.partial(clock.median_step, run, seconds)
      for side, run in pair.items()
    }
    before, after = clock.alternate(turns, rounds).values()
    plain_seconds += before
    found[name] = {
      'ratio': clock.ratio(after, before),
      'temp': program.memory['temp'],
    }
  found['plain'] = {
    'ratio': clock.spread([1.0]),
    'temp': plain.memory['temp'],
    'seconds': clock.spread(plain_seconds),
  }
  return found


def with_piece(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
  """Returns the config of the recipe's plain step with some keys set."""
  config = config.copy_and_resolve_references()  # a copy of every level
  with config.unlocked():
    config.update_from_flattened_dict(programs.PLAIN | {'model.remat': False})
    config.update_from_flattened_dict(values)
  return config
