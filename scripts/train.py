"""Trains a recipe: python -m scripts.train --config=FILE --workdir=DIR.

--config.KEY=VALUE overrides a value of the recipe; --print_config shows them
all. A run resumes from the newest checkpoint in its workdir. Exit codes: 0
finished, 1 diverged, 2 refused or failed, 75 interrupted and saved (the same
command resumes it), 128 + N killed by signal N.

Several processes, each with its own devices, train as one. On a TPU pod, under
SLURM and under Open MPI they find each other. Elsewhere give each of them
--coordinator_address, --num_processes and --process_id (scripts.launch does),
or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. If one
process dies, the others exit; start them again, on any number of machines, to
resume.
"""

import contextlib
import sys

from absl import flags

from scripts import common

EXIT_CODES = {'finished': 0, 'diverged': 1, 'interrupted': 75}

CONFIG = common.config_flag()
WORKDIR = flags.DEFINE_string(
  'workdir', None, "The run's folder; gs://... and s3://... are accepted."
)
PRINT_CONFIG = flags.DEFINE_bool(
  'print_config', False, 'Print the resolved config as JSON and exit.'
)
CACHE = flags.DEFINE_string(
  'compilation_cache',
  '',
  "The folder of compiled programs, or 'off'. By default it is in the run's "
  'folder.',
)
PROFILE = flags.DEFINE_string(
  'profile_steps',
  '',
  'A:B, to trace steps A to B - 1 for TensorBoard or XProf.',
)
PROCESSES = common.process_flags()


def main() -> int:
  import jax

  from configs import base
  from nfnets import bucket, train, workdir

  config = common.needed(CONFIG, 'configs/nfnet_f0.py')
  if PRINT_CONFIG.value:
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the JSON
      resolved, _ = train.complete(config, WORKDIR.value)
    print(workdir.dump_json(resolved.to_dict()), end='')
    return 0
  folder = common.needed(WORKDIR, 'runs/mine')
  profile = profile_steps()
  if CACHE.value != 'off':
    cache = CACHE.value or f'{folder}/compilation_cache'
    jax.config.update('jax_compilation_cache_dir', bucket.absolute(cache))
  common.keep_freed_memory()
  summary = train.train_and_evaluate(
    config,
    folder,
    defaults=base.defaults(),
    processes=PROCESSES(),
    profile_steps=profile,
  )
  code = EXIT_CODES[summary['status']]
  if summary['status'] == 'interrupted' and jax.process_count() == 1:
    common.leave(code)  # a thread may still be compiling
  return code


def profile_steps() -> tuple[int, int] | None:
  """The first step of --profile_steps and the one after its last, if any."""
  if not PROFILE.value:
    return None
  first, _, end = PROFILE.value.partition(':')
  if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
    raise ValueError(
      f'--profile_steps={PROFILE.value}: give the first step and the one after '
      'the last, as 10:15'
    )
  return int(first), int(end)


if __name__ == '__main__':
  common.run(main)
