"""Derived numbers: references that follow the key they come from."""

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


def published(model_name: FieldReference, key: str) -> FieldReference:
  """The published `key` of whatever model is named when the config is read.

  So `--config.model.name=nfnet_f3` brings F3's sizes, rates and RandAugment
  along, and not those of the file's own variant.
  """
  return model_name + _Published(key)


def steps(
  num_train: FieldReference, num_epochs: FieldReference, batch_size: Any
) -> FieldReference:
  """Whole steps in so many epochs."""
  return num_train * num_epochs // batch_size


def share(num_steps: FieldReference, part: int, whole: Any) -> FieldReference:
  """`part / whole` of the steps, rounded."""
  return (num_steps * part * 2 + whole) // (whole * 2)
