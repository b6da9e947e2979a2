"""What the commands share: flags, help, refusals and exit codes.

A script defines its flags, a `main`, and ends in `common.run(main)`. What
`main` returns is the exit code; an error that `explain` knows becomes one line
on stderr and exit code 2, any other keeps its traceback beside that code.
"""

import contextlib
import ctypes
import difflib
import errno
import glob
import inspect
import io
import logging as python_logging
import os
import pathlib
import platform
import re
import runpy
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from nfnets import bucket, texts

REFUSED = 2
LONGEST = 1000  # characters of a refusal
GRACE_SECONDS = 1.0
REFUSALS = (
  ValueError,
  TypeError,
  OSError,
  ImportError,
  MemoryError,
  RecursionError,
  flags.Error,
)
# Packages that one thing alone needs: the extra that brings them.
OPTIONAL = {
  'onnx': 'export',
  'onnxruntime': 'export',
  'libtpu': 'plan',
  'tensorflow': 'prepare',
}
LOCAL = ('out', 'html', 'json', 'results')  # flags
RECIPES = pathlib.Path(__file__).parents[1] / 'configs'
WORDS = {
  errno.ENOSPC: 'the disk is full: free space, then run this again',
  errno.EDQUOT: 'the quota is used up: free space, then run this again',
  errno.EACCES: 'permission denied',
  errno.EPERM: 'permission denied',
  errno.EEXIST: 'is there already, and is no folder',
}
ACCELERATORS = ('/dev/nvidia[0-9]*', '/dev/kfd', '/dev/accel*', '/dev/vfio/*')
# glibc's malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD.
MALLOPT = {-8: 1, -4: 0, -1: -1, -2: 300_000_000}

SMALLER = (
  'take smaller batches; of a run, lower config.batch_size, raise '
  'config.micro_batches, or set config.model.remat=True'
)

flags.disclaim_key_flags()  # a flag defined here is the calling script's


def run(
  main: Callable[..., int | None],
  *,
  positional: bool = False,
  elsewhere: bool = False,
  waits: bool = False,
) -> None:
  """Parses the flags, calls `main`, and exits with what it returns.

  Args:
    main: the command; it takes the arguments that are no flags, if
      `positional`, and nothing otherwise.
    positional: whether there may be such arguments.
    elsewhere: whether the paths it is given are another machine's.
    waits: whether it takes its time after Ctrl-C, for processes of its own.
  """
  for stream in (sys.stdout, sys.stderr):  # names of files may be any bytes
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING)
  logging.get_absl_handler().setFormatter(Notes())
  flags.DEFINE_bool('traceback', False, 'Show where a refusal comes from.')
  flags.DEFINE_bool('help', False, 'Show this help.', short_name='h')
  if {'-h', '-help', '--help'}.intersection(sys.argv[1:]):
    try:
      print(manual(sys.modules[main.__module__]), flush=True)
    except BrokenPipeError:  # the reader has seen enough
      leave(0)
    sys.exit(0)
  try:
    argv = sys.argv if elsewhere else [_local(word) for word in sys.argv]
    arguments = _parse(argv)
    if arguments and not positional:
      raise ValueError(
        f'unexpected argument {arguments[0]!r}; flags start with --'
      )
    with contextlib.nullcontext() if waits else _ending_on_ctrl_c():
      sys.exit(main(arguments) if positional else main())
  except KeyboardInterrupt:
    leave(refuse('stopped by Ctrl-C'))
  except Exception as error:
    why = explain(error)
    if why is None or '--traceback' in sys.argv:
      traceback.print_exc()
    sys.exit(REFUSED if why is None else refuse(why))


@contextlib.contextmanager
def _ending_on_ctrl_c() -> Iterator[None]:
  """Ends the process where Ctrl-C didn't, though no handler took it.

  Python doesn't raise KeyboardInterrupt while its main thread is inside a
  compiler, and callbacks of the garbage collector drop it.
  """
  receive, send = os.pipe()
  report = sys.unraisablehook

  def watch() -> None:
    while number := os.read(receive, 1):
      is_ours = signal.getsignal(signal.SIGINT) is _stop
      if number[0] == signal.SIGINT and is_ours:
        time.sleep(GRACE_SECONDS)
        leave(refuse('stopped by Ctrl-C'))
    os.close(receive)

  def unraisable(error: Any) -> None:
    if error.exc_type is not KeyboardInterrupt:
      report(error)

  default = signal.default_int_handler
  if signal.getsignal(signal.SIGINT) is default:  # nohup leaves another
    signal.signal(signal.SIGINT, _stop)
  sys.unraisablehook = unraisable
  os.set_blocking(send, False)
  threading.Thread(target=watch, daemon=True).start()
  before = signal.set_wakeup_fd(send, warn_on_full_buffer=False)
  try:
    yield
  finally:
    sys.unraisablehook = report
    if signal.getsignal(signal.SIGINT) is _stop:
      signal.signal(signal.SIGINT, default)
    signal.set_wakeup_fd(before)
    os.close(send)


def _stop(_: int, frame: Any) -> None:
  while frame:
    # A library's import makes another error of it, or a segmentation fault.
    if 'importlib' in frame.f_code.co_filename:
      leave(refuse('stopped by Ctrl-C'))
    frame = frame.f_back
  raise KeyboardInterrupt


def explain(error: BaseException) -> str | None:
  """Culprit and remedy of an error that a user may meet, or None."""
  causes = list(_causes(error))
  told = ' '.join(str(error).split()) or type(error).__name__
  if 'RESOURCE_EXHAUSTED' in told or isinstance(error, MemoryError):
    return f'out of memory: {SMALLER} ({told:.200})'
  for cause in causes:
    if isinstance(cause, ModuleNotFoundError) and cause.name:
      package = cause.name.partition('.')[0]
      known = OPTIONAL.get(package)
      source = f"-e '.[{known}]'" if known else package
      return f'the package {package} is missing: pip install {source}'
    if isinstance(cause, OSError) and cause.errno in (
      errno.ENOSPC,
      errno.EDQUOT,
    ):
      return f'{_place(causes)}{WORDS[cause.errno]}'
  if isinstance(error, OSError) and error.strerror:
    words = WORDS.get(error.errno, error.strerror)
    return f'{_place([error])}{words}'
  return told if isinstance(error, REFUSALS) else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  while error is not None:
    yield error
    error = error.__cause__


def _place(errors: Iterable[BaseException]) -> str:
  names = [getattr(error, 'filename', None) for error in errors]
  return next((f'{os.fsdecode(name)}: ' for name in names if name), '')


def refuse(why: object) -> int:
  """Says why on one line of stderr; returns the exit code."""
  # Libraries quote lines, and show objects by where they lie in memory.
  line = ' '.join(str(why).replace('\\n', ' ').split())[:LONGEST]
  line = re.sub(r'\[Errno \d+\] ', '', line)
  line = re.sub(r'<(?:[\w.]*\.)?(\w+)(?: object)? at 0x\w+>', r'\1', line)
  print(f'error: {texts.printable(line)}', file=sys.stderr)
  return REFUSED


def note(text: str) -> None:
  """Says on stderr what was chosen or left out; nothing for ''."""
  if text:
    print(f'note: {texts.printable(text)}', file=sys.stderr)


class Notes(python_logging.Formatter):
  """What a library logs, as `note` says it."""

  def format(self, record: python_logging.LogRecord) -> str:
    return f'note: {texts.printable(" ".join(record.getMessage().split()))}'


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


def recipe(
  flag: flags.FlagHolder, workdir: str | os.PathLike[str] | None = None
) -> ConfigDict:
  """--config's, with what its weights or a run say of it, resolved, checked."""
  from nfnets import factory, finetune

  config = needed(flag, 'configs/nfnet_f0.py')
  finetune.complete(config, workdir)
  return factory.resolve(config)


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


def _local(word: str) -> str:
  """A word of the command line, `~` expanded where its value begins so.

  Raises:
    ValueError: it is an address of an unknown kind, or no local path where
      the command writes here alone.
  """
  flag, value = re.fullmatch(r'(--?[\w.]+=)?(.*)', word, re.DOTALL).groups('')
  if bucket.is_url(value) and flag.strip('-=') in LOCAL:
    raise ValueError(f'{word}: name a local path; copy what is written there')
  return flag + os.path.expanduser(value)


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses flags; what is wrong with a config's keys is told with the right."""
  given = _given_recipe(argv)
  keys: dict[str, type] = {}
  if 'config' in flags.FLAGS and given is not None:
    keys = _keys(_recipe(given))
    _check_keys(keys, argv)
  try:
    arguments = flags.FLAGS(argv)[1:]
  except flags.UnrecognizedFlagError as error:
    near = _nearest(error.flagname, keys) or 'KEY'
    hint = f"; the config's keys are set by --config.{near}=" if keys else ''
    if not keys and error.flagname.startswith('config.'):
      hint = '; it sets a key of a recipe: name that too, by --config=FILE'
    raise ValueError(f'{error}{hint}') from error
  if keys:
    flag = flags.FLAGS['config']
    for key, value in config_flags.get_override_values(flag).items():
      # ('',) of --config.optimizer.unclipped= but not of ...="('',)"
      if value == ('',) and _last_word(argv, key) in ('', "''", '""'):
        flag.value.update_from_flattened_dict({key: ()})
  return arguments


def _last_word(argv: Sequence[str], key: str) -> str:
  """The value that the last flag gives the key, as it was written."""
  found = ''
  for word, after in zip(argv, [*argv[1:], '']):
    if match := re.fullmatch(rf'--?config\.{re.escape(key)}(?:=(.*))?', word):
      found = after if match[1] is None else match[1]
  return found.strip()


def _given_recipe(argv: Sequence[str]) -> str | None:
  """FILE of --config=FILE or --config FILE."""
  for word, after in zip(argv, [*argv[1:], None]):
    if found := re.fullmatch('--?config(?:=(.*))?', word):
      return after if found[1] is None else found[1]
  return None


def _recipe(place: str) -> ConfigDict:
  """The config of FILE or FILE:ARGUMENT.

  Raises:
    ValueError: there is no such recipe, or it fails: where, and why.
  """
  file, _, argument = place.partition(':')
  if not os.path.isfile(file):
    known = {path.name: path for path in sorted(RECIPES.glob('*.py'))}
    name = f'{pathlib.Path(file).stem}.py'
    near = difflib.get_close_matches(name, known, 1)
    hint = f'; did you mean configs/{near[0]}?' if file and near else ''
    raise ValueError(f'--config={place}: no such file{hint}')
  try:
    get_config = runpy.run_path(file).get('get_config')
    if get_config is None:
      raise ValueError('it defines no get_config()')
    if argument and not inspect.signature(get_config).parameters:
      raise ValueError(f'it has no presets, so not {argument!r}')
    return get_config(*[argument] * bool(argument))
  except Exception as error:
    lines = [
      f', line {frame.lineno}'
      for frame in traceback.extract_tb(error.__traceback__)
      if frame.filename == file
    ]
    kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
    raise ValueError(
      f'--config={place} is no recipe{"".join(lines[-1:])}: {kind}{error}'
    ) from error


def _keys(config: ConfigDict, prefix: str = '') -> dict[str, type]:
  """Every key's type; groups of keys are keys too. Computes none."""
  found: dict[str, type] = {}
  for key in config:
    kind = found[prefix + key] = config.get_type(key)
    if issubclass(kind, ConfigDict):
      found |= _keys(config[key], f'{prefix}{key}.')
  return found


def _check_keys(keys: dict[str, type], argv: Sequence[str]) -> None:
  for word in argv:
    if not (found := re.match(r'--?(?:no)?config\.([^=]*)', word)):
      continue
    key, single = found[1], [k for k, x in keys.items() if x is not ConfigDict]
    if keys.get(key) is ConfigDict:
      inner = next(k for k in single if k.startswith(f'{key}.'))
      raise ValueError(
        f'{word}: a group of keys; set one, as --config.{inner}='
      )
    if key not in keys:
      near = _nearest(key, single)
      hint = f'; did you mean --config.{near}=?' if near else ''
      raise ValueError(
        f'{word}: the config has no key {key!r}{hint} '
        '(scripts.train --print_config shows all)'
      )


def _nearest(wanted: str, keys: Iterable[str]) -> str | None:
  """The key that was meant, by its whole path or by its last name."""
  last = {key.rpartition('.')[2]: key for key in reversed(list(keys))}
  whole = difflib.get_close_matches(wanted, list(last.values()), 1, 0.8)
  near = difflib.get_close_matches(wanted.rpartition('.')[2], last, 1, 0.7)
  return whole[0] if whole else last[near[0]] if near else None
