"""Derived numbers: references that follow the key they come from."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import FieldReference

from nfnets import variants


class _Then:
  """`reference + _Then(function)` is the function's value when it is read."""

  def __init__(self, function: Callable[[Any], Any]):
    self._function = function

  def __radd__(self, value: object) -> Any:
    return self._function(value)


def published(
  model_name: FieldReference, key: str, kind: type
) -> FieldReference:
  """The published `key` of whatever model is named when the config is read.

  So `--config.model.name=nfnet_f3` brings F3's sizes, rates and RandAugment
  along, and not those of the file's own variant.

  Args:
    model_name: reference to `config.model.name`.
    key: a column of `nfnets.variants`.
    kind: the value's type, which the command line parses: int, float, tuple.
  """

  def look_up(name: str) -> Any:
    value = variants.find(name).get(key)
    if value is None:
      raise ValueError(
        f'no {key} is published for {name}: pass it on the command line'
      )
    return kind(value)

  # The first operand's type is what a reference parses its overrides by.
  return FieldReference(kind()) + (model_name + _Then(look_up))


def choose(
  value: FieldReference, cases: Mapping[str, Any], default: Any
) -> FieldReference:
  """`cases[value]`, or the default, for whatever the value is when read.

  Numbers need `.to_int()` or `.to_float()`, as which a flag is parsed.
  """
  return value + _Then(lambda value: cases.get(value, default))


def steps(
  num_train: FieldReference, num_epochs: Any, batch_size: Any
) -> FieldReference:
  """Whole steps in so many epochs."""
  return (num_train * num_epochs // batch_size).to_int()


def at_least(bound: int, number: FieldReference) -> FieldReference:
  """The number, or the bound if that is larger."""
  return number + _Then(lambda value: max(bound, value))


def share(num_steps: FieldReference, part: float, whole: Any) -> FieldReference:
  """`part / whole` of the steps, rounded."""
  return ((num_steps * part * 2 + whole) // (whole * 2)).to_int()
