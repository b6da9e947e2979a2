"""Derived numbers: references that follow the key they come from."""

from collections.abc import Mapping
from typing import Any

from ml_collections import FieldReference

from nfnets import variants


class _Published:
  """`name_reference + _Published(key)` looks `key` up when it is read."""

  def __init__(self, key: str):
    self._key = key

  def __radd__(self, name: str) -> Any:
    row = variants.find(name)
    if row.get(self._key) is None:
      raise ValueError(
        f'no {self._key} is published for {name}: pass it on the command line'
      )
    return row[self._key]


class _Choice:
  """`reference + _Choice(cases, default)` chooses when it is read."""

  def __init__(self, cases: Mapping[str, str], default: str):
    self._cases, self._default = cases, default

  def __radd__(self, value: str) -> str:
    return self._cases.get(value, self._default)


class _AtLeast:
  """`reference + _AtLeast(bound)` is the larger when it is read."""

  def __init__(self, bound: int):
    self._bound = bound

  def __radd__(self, value: int) -> int:
    return max(self._bound, value)


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
  found = model_name + _Published(key)
  casts = {
    int: found.to_int,
    float: found.to_float,
    tuple: lambda: FieldReference(()) + found,
  }
  return casts[kind]()


def choose(
  value: FieldReference, cases: Mapping[str, str], default: str
) -> FieldReference:
  """`cases[value]`, or the default, for whatever the value is when read."""
  return value + _Choice(cases, default)


def steps(
  num_train: FieldReference, num_epochs: Any, batch_size: Any
) -> FieldReference:
  """Whole steps in so many epochs."""
  return (num_train * num_epochs // batch_size).to_int()


def at_least(bound: int, number: FieldReference) -> FieldReference:
  """The number, or the bound if that is larger."""
  return number + _AtLeast(bound)


def share(num_steps: FieldReference, part: float, whole: Any) -> FieldReference:
  """`part / whole` of the steps, rounded."""
  return ((num_steps * part * 2 + whole) // (whole * 2)).to_int()
