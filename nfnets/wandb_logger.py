"""The logger for Weights & Biases; the user installs `wandb`."""

import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

from nfnets import workdir


class WeightsAndBiases:
  """Sends scalars; a logger as in loggers.py.

  The file `wandb_id` keeps the run's id, so that a restart continues it.
  """

  def __init__(self, path: pathlib.Path, config: Mapping[str, Any]):
    import wandb

    kept = path / 'wandb_id'
    if not kept.exists():
      workdir.write_atomically(kept, secrets.token_hex(4))
    self._run = wandb.init(
      project='nfnets',
      dir=str(path),
      config=workdir.plain(config),
      id=kept.read_text(),
      resume='allow',
    )

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    self._run.log(dict(metrics), step=step)

  def close(self) -> None:
    self._run.finish()
