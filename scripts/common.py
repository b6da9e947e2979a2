"""What the commands share: flags, help, refusals and exit codes.

A script defines its flags, a `main`, and ends in `common.run(main)`. What
`main` returns is the exit code; an error of `REFUSALS` becomes one line on
stderr and exit code 2.
"""

import contextlib
import ctypes
import glob
import inspect
import io
import os
import platform
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

REFUSED = 2
REFUSALS = (ValueError, TypeError, OSError, ImportError, MemoryError)
# What a config file and its overrides raise besides.
_PARSING = (*REFUSALS, flags.Error, AttributeError, KeyError)
ACCELERATORS = ('/dev/nvidia[0-9]*', '/dev/kfd', '/dev/accel*', '/dev/vfio/*')
# glibc's malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD.
MALLOPT = {-8: 1, -4: 0, -1: -1, -2: 300_000_000}

flags.disclaim_key_flags()  # a flag defined here is the calling script's


def run(main: Callable[..., int | None], *, positional: bool = False) -> None:
  """Parses the flags, calls `main`, and exits with what it returns.

  Args:
    main: the command; it takes the arguments that are no flags, if
      `positional`, and nothing otherwise.
    positional: whether there may be such arguments.
  """
  for stream in (sys.stdout, sys.stderr):  # names of files may be any bytes
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING)
  flags.DEFINE_bool('traceback', False, 'Show where a refusal comes from.')
  flags.DEFINE_bool('help', False, 'Show this help.', short_name='h')
  if {'-h', '-help', '--help'}.intersection(sys.argv[1:]):
    print(manual(sys.modules[main.__module__]))
    sys.exit(0)
  arguments = _parse(sys.argv)
  if arguments and not positional:
    sys.exit(
      refuse(f'unexpected argument {arguments[0]!r}; flags start with --')
    )
  try:
    sys.exit(main(arguments) if positional else main())
  except KeyboardInterrupt:
    leave(refuse('stopped by Ctrl-C'))
  except REFUSALS as error:
    _exit_refused(error, flags.FLAGS.traceback)
  except Exception:
    traceback.print_exc()
    sys.exit(REFUSED)


def refuse(why: object) -> int:
  """Says why on one line of stderr; returns the exit code."""
  print(f'error: {printable(" ".join(str(why).split()))}', file=sys.stderr)
  return REFUSED


def printable(text: str) -> str:
  """The text without what would move a terminal's cursor or colour it."""
  return ''.join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def leave(code: int) -> NoReturn:
  """Exits at once, whatever threads still wait for: a compiler, a picture."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      stream.flush()
  os._exit(code)


def config_flag() -> flags.FlagHolder:
  """Defines --config=FILE, with --config.key=value for each of its keys."""
  return config_flags.DEFINE_config_file(
    'config',
    None,
    'A recipe, such as configs/nfnet_f0.py; --config.key=value sets a key.',
    lock_config=True,
  )


def needed(flag: flags.FlagHolder, example: str) -> Any:
  """A flag's value.

  Raises:
    ValueError: it isn't given; `example` says how.
  """
  value = flag.value
  # A config isn't compared: that would compute its derived numbers.
  if value is None or (isinstance(value, str) and not value):
    raise ValueError(f'name --{flag.name}, such as --{flag.name}={example}')
  return value


def path(flag: flags.FlagHolder) -> str | None:
  """The value of a flag that names a place, `~` expanded."""
  return flag.value and os.path.expanduser(flag.value)


def process_flags() -> Callable[[], dict[str, Any]]:
  """Defines the flags by which several processes find each other.

  Returns:
    A function that gives their values by name, once they are parsed.
  """
  holders = (
    flags.DEFINE_bool(
      'distributed',
      None,
      'Whether to join other processes; default: if there seem to be any.',
    ),
    flags.DEFINE_string('coordinator_address', None, 'HOST:PORT of process 0.'),
    flags.DEFINE_integer('num_processes', None, 'Of all together.'),
    flags.DEFINE_integer('process_id', None, "This process's, from 0."),
    flags.DEFINE_integer(
      'heartbeat_timeout_seconds',
      60,
      'Silence of a process after which the others end.',
      lower_bound=1,
    ),
  )
  return lambda: {holder.name: holder.value for holder in holders}


def keep_freed_memory() -> bool:
  """Makes glibc keep freed memory for the next step, on a CPU alone.

  By default hundreds of megabytes go back to the system after each step and
  return page by page, cleared: a tenth of F0's step. Call it before JAX starts
  its threads, which would have heaps of their own.

  Returns:
    Whether it was done. Not beside an accelerator, another C library, or
    settings in the environment (`MALLOC_...`).
  """
  on_cpu = os.environ.get('JAX_PLATFORMS') == 'cpu' or not any(
    map(glob.glob, ACCELERATORS)
  )
  is_set = any(name.startswith('MALLOC_') for name in os.environ)
  if not on_cpu or is_set or platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  taken = [mallopt(name, value) for name, value in MALLOPT.items()]
  return all(taken)


def manual(module: Any) -> str:
  """A script's docstring and its flags, as text."""
  lines = [inspect.getdoc(module) or '', '', 'Flags:']
  for flag in flags.FLAGS.get_key_flags_for_module(module):
    value = '' if flag.boolean else '=' + flag.flag_type().upper()
    text = flag.help
    if choices := '|'.join(getattr(flag.parser, 'enum_values', ())):
      value, text = f'={choices}', text.removeprefix(f'<{choices}>: ')
    no = '[no]' if flag.boolean else ''
    if flag.default is not None and flag.default not in ('', False):
      text += f' Default: {flag.default_as_str}.'
    lines.append(f'  --{no}{flag.name}{value}')
    lines.append(textwrap.indent(textwrap.fill(text, 72), ' ' * 6))
  return '\n'.join(lines)


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses flags; what is wrong with them is one line, not a traceback."""
  try:
    arguments = flags.FLAGS(argv)[1:]
    if 'config' in flags.FLAGS and flags.FLAGS['config'].value is not None:
      _empty_tuples(flags.FLAGS['config'].value)
    return arguments
  except flags.UnrecognizedFlagError as error:
    why = str(error)
    config = flags.FLAGS['config'].value if 'config' in flags.FLAGS else None
    if config is not None and error.flagname in config:
      why += f'; a key of the config is set by --config.{error.flagname}='
    sys.exit(refuse(why))
  except _PARSING as error:
    _exit_refused(error, '--traceback' in argv)


def _empty_tuples(config: ConfigDict) -> None:
  """An empty flag, such as --config.optimizer.unclipped=, is (), not ('',)."""
  for key in config:
    try:
      value = config[key]
    except ZeroDivisionError:  # of a batch of 0, which is refused later
      continue
    if isinstance(value, ConfigDict):
      _empty_tuples(value)
    elif value == ('',):
      config[key] = ()


def _exit_refused(error: Exception, with_traceback: bool) -> NoReturn:
  if with_traceback:
    traceback.print_exc()
  of_key = isinstance(error, KeyError) and error.args  # quoted by its str()
  sys.exit(refuse((error.args[0] if of_key else error) or repr(error)))
