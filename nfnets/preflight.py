"""Before the first step: several processes really make one run."""

import jax
import numpy as np
from ml_collections import ConfigDict

from nfnets import distributed, watch, workdir

OWN_KEYS = ('data.data_dir', 'data.num_threads', 'data.cache')  # a host's own


def check(
  folder: workdir.RunFolder, config: ConfigDict, examples: list[int]
) -> None:
  """Refuses processes that don't make one run; all must call.

  Args:
    folder: the run's, which all must share.
    config: the run's, which must be equal on all.
    examples: numbers of training and evaluation examples.

  Raises:
    watch.Agreed: names the process, its host and what is different.
  """
  if jax.process_count() == 1:
    return
  flat = workdir.flat(workdir.plain(config.to_dict()))
  mine = {
    'config': {k: v for k, v in flat.items() if k not in OWN_KEYS},
    'number of devices': jax.local_device_count(),
    'host': distributed.host_name(),
    'numbers of examples': examples,
    'version of jax': jax.__version__,
  }
  token = folder.path / 'processes' / 'token'
  everybody = distributed.exchange(mine)
  if jax.process_index() == 0:
    token.parent.mkdir(exist_ok=True)
    workdir.write_atomically(token, str(np.random.SeedSequence().entropy))
  written = distributed.exchange(
    token.read_text() if jax.process_index() == 0 else None
  )
  sees = token.exists() and token.read_text() == written[0]
  distributed.agree_on_problem(
    None
    if sees
    else ValueError(
      f'--workdir={folder.path} on {mine["host"]} is not the folder that '
      f'process 0 has on {everybody[0]["host"]}: give a folder that all '
      'processes share'
    )
  )
  for index, other in enumerate(everybody):
    for key, value in other.items():
      expected = everybody[0][key]
      if key == 'host' or value == expected:
        continue
      if key == 'config':
        keys = expected.keys() | value.keys()
        key = min(k for k in keys if expected.get(k) != value.get(k))
        expected, value = expected.get(key), value.get(key)
        key = f'config.{key}'
      raise watch.Agreed(
        f'processes differ in {key}: {expected!r} in process 0, {value!r} in '
        f'{distributed.who(index)} ({other["host"]}); start all alike'
      )
