"""Values that follow other keys: references computed when a config is read."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import FieldReference

from nfnets import variants


class _Then:
  """Makes `reference + _Then(function)` a reference to `function(value)`.

  References of ml_collections support arithmetic, but no other functions.
  """

  def __init__(self, function: Callable[[Any], Any]):
    self._function = function

  def __radd__(self, value: object) -> Any:
    return self._function(value)


def published(
  model_name: FieldReference, key: str, kind: type
) -> FieldReference:
  """The published `key` of the variant that `config.model.name` names.

  `--config.model.name=nfnet_f3` thus also sets the sizes, rates and RandAugment
  of F3, whatever variant the file is for.

  Args:
    model_name: reference to `config.model.name`.
    key: a column of `nfnets.variants`.
    kind: type of the value, for the command line: int, float or tuple.
  """

  def look_up(name: str) -> Any:
    value = variants.find(name).get(key)
    if value is None:
      raise ValueError(
        f'no {key} is published for {name}: pass it on the command line'
      )
    return kind(value)

  return _following(model_name, look_up, kind)


def choose(
  value: FieldReference, cases: Mapping[str, Any], default: Any
) -> FieldReference:
  """`cases[value]`, or the default if there is no such case."""
  choice = lambda value: cases.get(value, default)
  return _following(value, choice, type(default))


def _following(
  value: FieldReference, function: Callable[[Any], Any], kind: type
) -> FieldReference:
  """A reference to `function(value)`; overrides are parsed as a `kind`."""
  # ml_collections takes the type of the first operand.
  return FieldReference(kind()) + (value + _Then(function))


def steps(
  num_train: FieldReference, num_epochs: Any, batch_size: Any
) -> FieldReference:
  """The number of whole steps in `num_epochs`."""
  return (num_train * num_epochs // batch_size).to_int()


def at_least(bound: int, number: FieldReference) -> FieldReference:
  """The larger of the bound and the number."""
  return number + _Then(lambda value: max(bound, value))


def share(num_steps: FieldReference, part: float, whole: Any) -> FieldReference:
  """`part / whole` of the steps, rounded to an integer."""
  return ((num_steps * part * 2 + whole) // (whole * 2)).to_int()
