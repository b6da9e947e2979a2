"""What the commands share: flags, help, error messages and exit codes.

A script defines its flags and a `main`, and ends with `common.run(main)`. The
value that `main` returns is the exit code. An error that `explain` recognizes
is printed as one line on stderr, any other with its traceback; both exit with
code 2.
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
import select
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
MAX_CHARACTERS = 1000  # of an error message
GRACE_SECONDS = 1.0  # for Python's own handling of Ctrl-C
# Errors whose own text is the message; the cause lies with the user.
REFUSALS = (
  ValueError,
  TypeError,
  OSError,
  ImportError,
  MemoryError,
  RecursionError,
  flags.Error,
)
# Optional packages, and the extra in pyproject.toml that installs each.
OPTIONAL = {
  'onnx': 'export',
  'onnxruntime': 'export',
  'libtpu': 'plan',
  'tensorflow': 'prepare',
}
LOCAL_FLAGS = ('out', 'html', 'json', 'results')  # their paths can't be URLs
RECIPES = pathlib.Path(__file__).parents[1] / 'configs'
SYSTEM_ERRORS = {
  errno.ENOSPC: 'the disk is full: free some space, then run this again',
  errno.EDQUOT: 'the disk quota is used up: free some space, then run again',
  errno.EACCES: 'permission denied',
  errno.EPERM: 'permission denied',
  errno.EEXIST: 'already exists and is not a folder',
}
ACCELERATORS = ('/dev/nvidia[0-9]*', '/dev/kfd', '/dev/accel*', '/dev/vfio/*')
# M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD of glibc's malloc.h.
MALLOPT = {-8: 1, -4: 0, -1: -1, -2: 300_000_000}
OUT_OF_MEMORY = (
  'out of memory: use smaller batches; for a training run, lower '
  'config.batch_size, raise config.micro_batches, or set '
  'config.model.remat=True'
)
# How the help page shows a flag's value.
PLACEHOLDERS = {
  'config object': 'FILE',
  'comma separated list of strings': 'A,B,...',
  'multi string': 'STRING',
}

flags.disclaim_key_flags()  # flags defined here belong to the calling script


def run(
  main: Callable[..., int | None],
  *,
  positional: bool = False,
  remote_paths: bool = False,
  handles_ctrl_c: bool = False,
) -> None:
  """Parses the flags, calls `main`, and exits with the code it returns.

  Args:
    main: the command. With `positional` it receives the list of arguments that
      are not flags, otherwise nothing.
    positional: whether arguments other than flags are allowed.
    remote_paths: whether the paths belong to another machine, so that `~` and
      URLs are passed on unchanged.
    handles_ctrl_c: whether `main` handles Ctrl-C itself, for instance to wait
      for its child processes.
  """
  for stream in (sys.stdout, sys.stderr):  # file names may contain any bytes
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING)
  logging.get_absl_handler().setFormatter(Notes())
  flags.DEFINE_bool(
    'traceback', False, 'Show the traceback of an error as well.'
  )
  flags.DEFINE_bool('help', False, 'Show this help and exit.', short_name='h')
  try:
    if {'-h', '-help', '--help'}.intersection(sys.argv[1:]):
      print(manual(sys.modules[main.__module__]), flush=True)
      sys.exit(0)
    argv = sys.argv if remote_paths else [_local(word) for word in sys.argv]
    arguments = _parse(argv)
    if arguments and not positional:
      raise ValueError(
        f'unexpected argument {arguments[0]!r}; flags start with --'
      )
    with contextlib.nullcontext() if handles_ctrl_c else _exiting_on_ctrl_c():
      code = main(arguments) if positional else main()
      print(end='', flush=True)  # stdout may be None
    sys.exit(code)
  except KeyboardInterrupt:
    leave(refuse('stopped by Ctrl-C'))
  except Exception as error:
    if isinstance(error, BrokenPipeError) and _has_lost_reader():
      leave(128 + signal.SIGPIPE)
    why = explain(error)
    if why is None or '--traceback' in sys.argv:
      traceback.print_exc()
    sys.exit(REFUSED if why is None else refuse(why))


def _has_lost_reader() -> bool:
  """Whether the reader of stdout or stderr, such as `head`, has exited."""
  streams = select.poll()
  for number in (1, 2):
    streams.register(number, 0)  # reports errors only
  lost = select.POLLERR | select.POLLHUP
  return any(event & lost for _, event in streams.poll(0))


@contextlib.contextmanager
def _exiting_on_ctrl_c() -> Iterator[None]:
  """Exits on Ctrl-C even where Python loses its KeyboardInterrupt.

  Python doesn't raise KeyboardInterrupt while the main thread is inside a
  compiler, and drops one that is raised in a garbage collector's callback.
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
  if signal.getsignal(signal.SIGINT) is default:  # not so under nohup
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
    # KeyboardInterrupt within an import may become another error, or crash.
    if 'importlib' in frame.f_code.co_filename:
      leave(refuse('stopped by Ctrl-C'))
    frame = frame.f_back
  raise KeyboardInterrupt


def explain(error: BaseException) -> str | None:
  """The message for an error that is the user's to resolve, else None."""
  causes = list(_causes(error))
  text = ' '.join(str(error).split()) or type(error).__name__
  if 'RESOURCE_EXHAUSTED' in text or isinstance(error, MemoryError):
    return f'{OUT_OF_MEMORY} ({text:.200})'
  for cause in causes:
    if isinstance(cause, ModuleNotFoundError) and cause.name:
      package = cause.name.partition('.')[0]
      extra = OPTIONAL.get(package)
      source = f"-e '.[{extra}]'" if extra else package
      return f'the package {package} is missing: pip install {source}'
    if isinstance(cause, OSError) and cause.errno in (
      errno.ENOSPC,
      errno.EDQUOT,
    ):
      return f'{_file(causes)}{SYSTEM_ERRORS[cause.errno]}'
  if isinstance(error, OSError) and error.strerror:
    what = SYSTEM_ERRORS.get(error.errno, error.strerror)
    return f'{_file([error])}{what}'
  return text if isinstance(error, REFUSALS) else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  while error is not None:
    yield error
    error = error.__cause__


def _file(errors: Iterable[BaseException]) -> str:
  """The first file that these errors name, as a prefix of a message."""
  names = [getattr(error, 'filename', None) for error in errors]
  return next((f'{os.fsdecode(name)}: ' for name in names if name), '')


def refuse(why: object) -> int:
  """Prints an error as one line on stderr; returns the exit code."""
  # Libraries' messages contain quoted newlines and memory addresses.
  line = ' '.join(str(why).replace('\\n', ' ').split())[:MAX_CHARACTERS]
  line = re.sub(r'\[Errno \d+\] ', '', line)
  line = re.sub(r'<(?:[\w.]*\.)?(\w+)(?: object)? at 0x\w+>', r'\1', line)
  print(f'error: {texts.printable(line)}', file=sys.stderr)
  return REFUSED


def note(text: str) -> None:
  """Prints a remark on stderr, unless it is empty."""
  if text:
    print(f'note: {texts.printable(text)}', file=sys.stderr)


class Notes(python_logging.Formatter):
  """Formats a library's log record as `note` prints it."""

  def format(self, record: python_logging.LogRecord) -> str:
    return f'note: {texts.printable(" ".join(record.getMessage().split()))}'


def leave(code: int) -> NoReturn:
  """Exits at once, without waiting for threads that compile or read."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      stream.flush()
  os._exit(code)


def config_flag() -> flags.FlagHolder:
  """Defines --config=FILE and, for each of its keys, --config.key=value."""
  return config_flags.DEFINE_config_file(
    'config',
    None,
    'The recipe, such as configs/nfnet_f0.py; --config.KEY=VALUE overrides a '
    'value in it.',
    lock_config=True,
  )


def needed(flag: flags.FlagHolder, example: str) -> Any:
  """The value of a required flag.

  Raises:
    ValueError: the flag isn't set; the message shows `example`.
  """
  value = flag.value
  # Comparing a config with '' would compute its derived values.
  if value is None or (isinstance(value, str) and not value):
    raise ValueError(f'set --{flag.name}, such as --{flag.name}={example}')
  return value


def recipe(
  flag: flags.FlagHolder, workdir: str | os.PathLike[str] | None = None
) -> ConfigDict:
  """The recipe of --config, completed, resolved and checked.

  Args:
    flag: the flag that `config_flag` defined.
    workdir: a run's folder; like `config.weights`, it says what the recipe
      leaves open, such as the network's name.
  """
  from nfnets import checks, finetune

  config = needed(flag, 'configs/nfnet_f0.py')
  finetune.complete(config, workdir)
  return checks.resolve(config)


def network_of(
  model: flags.FlagHolder, config: flags.FlagHolder
) -> tuple[str, dict[str, Any], ConfigDict | None]:
  """The network of --model, or the one that --config describes.

  Returns:
    Its name, the other arguments of `models.create` as far as they don't hide
    its blocks, and the recipe; {} and None for --model.

  Raises:
    ValueError: neither flag is set, or both are.
  """
  if config.value is None:
    if not model.value:
      raise ValueError('set --model=NAME or --config=FILE')
    return model.value, {}, None
  if model.value:
    raise ValueError(
      f'--model={model.value} and --config: give one of them; '
      f'--config.model.name={model.value} changes the network of a recipe'
    )
  from nfnets import factory

  found = recipe(config)
  factory.network_of(found)  # checks the arguments
  arguments = found.model.to_dict() | {'remat': False, 'scan': False}
  name = arguments.pop('name')
  arguments.pop('cross_replica_axis', None)  # there is no mapped axis
  return name, {'num_classes': found.data.num_classes, **arguments}, found


def process_flags() -> Callable[[], dict[str, Any]]:
  """Defines the flags by which several processes find each other.

  Returns:
    A function that returns the flags' values by name, once they are parsed.
  """
  holders = (
    flags.DEFINE_bool(
      'distributed',
      None,
      'Whether to join other processes. By default this is detected.',
    ),
    flags.DEFINE_string('coordinator_address', None, 'HOST:PORT of process 0.'),
    flags.DEFINE_integer(
      'num_processes', None, 'The number of processes in total.'
    ),
    flags.DEFINE_integer(
      'process_id', None, 'The index of this process, from 0.'
    ),
    flags.DEFINE_integer(
      'heartbeat_timeout_seconds',
      60,
      'How long a process may be silent before the others exit.',
      lower_bound=1,
    ),
  )
  return lambda: {holder.name: holder.value for holder in holders}


def keep_freed_memory() -> bool:
  """Makes glibc keep freed memory for the next step, on a CPU only.

  By default glibc returns hundreds of megabytes to the system after each step,
  and the next step faults them in again, page by page: a tenth of F0's step.
  Call this before JAX starts its threads, which would use heaps of their own.

  Returns:
    Whether the setting was made. It isn't where there is an accelerator,
    another C library, or a `MALLOC_...` variable in the environment.
  """
  on_cpu = os.environ.get('JAX_PLATFORMS') == 'cpu' or not any(
    map(glob.glob, ACCELERATORS)
  )
  is_set = any(name.startswith('MALLOC_') for name in os.environ)
  if not on_cpu or is_set or platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  accepted = [mallopt(name, value) for name, value in MALLOPT.items()]
  return all(accepted)


def manual(module: Any) -> str:
  """The help page of a script: its docstring and its flags."""
  lines = [inspect.getdoc(module) or '', '', 'Flags:']
  for flag in flags.FLAGS.get_key_flags_for_module(module):
    kind = flag.flag_type()
    value = '' if flag.boolean else f'={PLACEHOLDERS.get(kind, kind.upper())}'
    text = flag.help.partition(';\n')[0]  # absl's hint on repeated flags
    if choices := '|'.join(getattr(flag.parser, 'enum_values', ())):
      value, text = f'={choices}', text.removeprefix(f'<{choices}>: ')
    no = '[no]' if flag.boolean else ''
    if flag.default not in (None, '', False, []):
      default = str(flag.default_as_str).strip("'")
      text += f' Default: {default}.'
    lines.append(f'  --{no}{flag.name}{value}')
    lines.append(textwrap.indent(textwrap.fill(text, 72), ' ' * 6))
  return '\n'.join(lines)


def _local(word: str) -> str:
  """A word of the command line, with a leading `~` of its value expanded.

  Raises:
    ValueError: the value is a URL of an unknown kind, or a URL where the
      command can write local files only.
  """
  flag, value = re.fullmatch(r'(--?[\w.]+=)?(.*)', word, re.DOTALL).groups('')
  if bucket.is_url(value) and flag.strip('-=') in LOCAL_FLAGS:
    raise ValueError(f'{word}: give a local path, and copy the result there')
  return flag + os.path.expanduser(value)


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses the flags, the config's included; returns the other arguments.

  Raises:
    ValueError: there is no such recipe, key or flag; names the nearest one.
  """
  given = _given_recipe(argv)
  keys: dict[str, type] = {}
  if 'config' in flags.FLAGS and given is not None:
    keys = _keys(_recipe(given))
    _check_keys(keys, argv)
    argv = _with_empty_tuples(keys, argv)
  try:
    return flags.FLAGS(argv)[1:]
  except flags.UnrecognizedFlagError as error:
    near = _nearest(error.flagname, keys) or 'KEY'
    hint = f'; keys of the config are set by --config.{near}=' if keys else ''
    if not keys and error.flagname.startswith('config.'):
      hint = '; it overrides a recipe, so name one by --config=FILE'
    raise ValueError(f'{error}{hint}') from error


def _given_recipe(argv: Sequence[str]) -> str | None:
  """FILE of `--config=FILE` or `--config FILE`."""
  for word, after in zip(argv, [*argv[1:], None]):
    if found := re.fullmatch('--?config(?:=(.*))?', word):
      return after if found[1] is None else found[1]
  return None


def _recipe(place: str) -> ConfigDict:
  """The config of FILE or FILE:PRESET.

  Raises:
    ValueError: there is no such recipe, or its code fails.
  """
  file, _, preset = place.partition(':')
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
    if preset and not inspect.signature(get_config).parameters:
      raise ValueError(f'it has no presets, so not {preset!r}')
    return get_config(preset) if preset else get_config()
  except Exception as error:
    lines = [
      f', line {frame.lineno}'
      for frame in traceback.extract_tb(error.__traceback__)
      if frame.filename == file
    ]
    kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
    raise ValueError(
      f'--config={place} is not a recipe{"".join(lines[-1:])}: {kind}{error}'
    ) from error


def _keys(config: ConfigDict, prefix: str = '') -> dict[str, type]:
  """The type of every key, groups of keys included; computes no value."""
  found: dict[str, type] = {}
  for key in config:
    kind = found[prefix + key] = config.get_type(key)
    if issubclass(kind, ConfigDict):
      found |= _keys(config[key], f'{prefix}{key}.')
  return found


def _check_keys(keys: dict[str, type], argv: Sequence[str]) -> None:
  """Raises ValueError for --config.KEY of a group or an unknown key."""
  single = [key for key, kind in keys.items() if kind is not ConfigDict]
  for word in argv:
    if not (found := re.match(r'--?(?:no)?config\.([^=]*)', word)):
      continue
    key = found[1]
    if keys.get(key) is ConfigDict:
      inner = next(k for k in single if k.startswith(f'{key}.'))
      raise ValueError(
        f'{word}: a group of keys; set one of them, as --config.{inner}='
      )
    if key not in keys:
      near = _nearest(key, single)
      hint = f'; did you mean --config.{near}=?' if near else ''
      raise ValueError(
        f'{word}: the config has no key {key!r}{hint} '
        '(scripts.train --print_config shows them all)'
      )


def _with_empty_tuples(keys: dict[str, type], argv: Sequence[str]) -> list[str]:
  """Makes an empty value of a tuple's key (), which would parse as ('',)."""
  words = list(argv)
  for at, word in enumerate(words):
    flag, _, value = word.rpartition('=')
    if '=' not in word:  # `--config.KEY VALUE`
      flag, value = words[at - 1], word
    key = flag.lstrip('-').removeprefix('config.')
    if keys.get(key) is tuple and value in ('', "''", '""'):
      words[at] = f'{flag}=()' if '=' in word else '()'
  return words


def _nearest(wanted: str, keys: Iterable[str]) -> str | None:
  """The key that was probably meant, by its whole path or its last name."""
  last = {key.rpartition('.')[2]: key for key in reversed(list(keys))}
  whole = difflib.get_close_matches(wanted, list(last.values()), 1, 0.8)
  near = difflib.get_close_matches(wanted.rpartition('.')[2], last, 1, 0.7)
  return whole[0] if whole else last[near[0]] if near else None
