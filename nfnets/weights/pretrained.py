"""Weights to start from, whoever wrote them, by one call."""

import contextlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from nfnets import bucket
from nfnets.data import sources
from nfnets.weights import files, match, stacked, timm, torch_file
from nfnets.workdir import RunFolder

KINDS = ('auto', 'published', 'ours', 'run', 'timm')
PUBLISHED = 'https://storage.googleapis.com/dm-nfnets/'
_TORCH = ('.pth', '.pt', '.bin', '.tar')


def load(source: str | pathlib.Path, **options: Any) -> files.Weights:
  """`read`, where the weights must be a whole network's, and finite."""
  weights = read(source, **options)
  with _one_line(source):
    files.require_whole(weights, str(source))
  return weights


def read(
  source: str | pathlib.Path,
  kind: str = 'auto',
  *,
  timm_name: str | None = None,
  averaged: bool = True,
) -> files.Weights:
  """Reads a published file, one of ours, timm's, or a run's folder.

  Args:
    source: F0_haiku.npz and its like; .safetensors or .npz of ours;
      .safetensors or .pth of timm's; a run's folder, whose newest checkpoint
      counts; any of them may lie in a bucket.
    kind: one of `KINDS`; 'auto' tells it by the content.
    timm_name: of timm's network; None tells it by its parts.
    averaged: of a run or a checkpoint of PyTorch that averaged its weights,
      the average.

  Raises:
    ValueError, FileNotFoundError: with one line that says what is wrong.
  """
  if kind not in KINDS:
    raise ValueError(f'no kind of weights {kind!r}: {", ".join(KINDS)}')
  with bucket.fetched(source) as path:
    if not path.exists():
      hint = ''
      if re.fullmatch(r'F[0-6]_haiku\.npz', path.name):
        hint = f'; it is at {PUBLISHED}{path.name}'
      raise FileNotFoundError(f'{source}: no such file or folder{hint}')
    if not (path.is_file() or path.is_dir()):
      raise ValueError(f'{source}: neither a file nor a folder')
    with _one_line(source):
      return _read(path, kind, timm_name, averaged)


def of_run(
  workdir: str | pathlib.Path, config: ConfigDict | None = None
) -> dict[str, files.Weights]:
  """A run's newest weights: `eval`, and `eval_ema` if it averaged.

  Args:
    workdir: the run's folder, local (bucket.fetched).
    config: if given, must describe the run's own network.

  Raises:
    ValueError: there is no run or no checkpoint, or its network is another.
  """
  # It takes a second to import, and files don't need it.
  from nfnets import checkpoint

  folder = RunFolder(workdir, must_exist=True)
  own = ConfigDict(folder.read_config())
  if config is not None and _network(config) != _network(own):
    raise ValueError(
      f'{folder.path} holds a run of another network: {_network(own)} there, '
      f'{_network(config)} here'
    )
  overrides = own.model.to_dict()
  name, num_classes = overrides.pop('name'), own.data.num_classes
  checkpoints = checkpoint.Checkpoints(folder.path, read_only=True)
  try:
    restored = _restored(checkpoints, own)
  finally:
    checkpoints.close()
  if restored is None:
    raise ValueError(f'{folder.path} holds no checkpoint yet')
  found = {'eval': (restored['params'], restored['state'])}
  if own.ema.mode != 'none':
    found['eval_ema'] = (restored['ema_params'], restored['ema_state'])
  keys = ('eval_image_size', 'eval_preprocessing', 'mean', 'std')
  data = {key: own.data[key] for key in keys} | _class_names(own.data)
  return {
    prefix: files.Weights(
      *map(stacked.unstack, trees), name, num_classes, overrides, data
    )
    for prefix, trees in found.items()
  }


def _restored(checkpoints: Any, config: ConfigDict) -> dict[str, Any] | None:
  """The newest weights, at public paths or, of a scanned network, in stacks."""

  def restore(as_trained: bool) -> dict[str, Any] | None:
    overrides = config.model.to_dict()
    params, state = files.shapes(
      overrides.pop('name'),
      config.data.num_classes,
      as_trained=as_trained,
      **overrides,
    )
    wanted = {'params': params, 'state': state}
    if config.ema.mode != 'none':
      wanted |= {'ema_params': params, 'ema_state': state}
    return checkpoints.restore_latest(wanted)  # whatever its optimizer was

  try:
    return restore(as_trained=True)
  except ValueError:
    if not config.model.get('scan'):
      raise
    return restore(as_trained=False)  # written before stacks stayed stacked


@contextlib.contextmanager
def _one_line(source: str | pathlib.Path) -> Iterator[None]:
  """Makes any error one line that names the source."""
  try:
    yield
  except match.Mismatch:
    raise
  except Exception as error:  # a damaged file makes its reader raise anything
    why = ' '.join(str(error).split()) or type(error).__name__
    named = '' if str(source) in why else f'{source}: '
    raise ValueError(f'{named}{why:.600}') from error


def _read(
  source: pathlib.Path, kind: str, timm_name: str | None, averaged: bool
) -> files.Weights:
  if kind == 'run' or source.is_dir():
    found = of_run(source)
    return found.get('eval_ema' if averaged else 'eval', found['eval'])
  if kind == 'published':
    return files.identify(files.read_published(source))
  if kind == 'timm' or source.suffix in _TORCH:
    return _of_timm(source, timm_name, averaged)
  if kind == 'auto' and source.suffix == '.safetensors':
    names = files.read_safetensors(source)
    if any('/' not in name for name in names):
      return _of_timm(source, timm_name, averaged)
  return files.read(source)


def _of_timm(
  source: pathlib.Path, name: str | None, averaged: bool
) -> files.Weights:
  if source.suffix == '.safetensors':
    arrays = torch_file.plain_names(files.read_safetensors(source))
    key = None
  else:
    arrays, key = torch_file.read(source, averaged)
  name = name or timm.guess(arrays)
  params, num_classes = timm.from_timm(arrays, name), 0
  if 'head.fc.bias' in arrays:
    num_classes = arrays['head.fc.bias'].shape[0]
  peer = timm.PEERS[name]
  note = f"weights of the file's {key!r}" if key else ''
  return files.Weights(
    params, {}, peer.model, num_classes, peer.overrides, peer.data, note
  )


def _network(config: ConfigDict) -> dict[str, Any]:
  # Tuples and lists say the same.
  return {
    key: list(value) if isinstance(value, tuple | list) else value
    for key, value in config.model.to_dict().items()
  }


def _class_names(data: ConfigDict) -> dict[str, Any]:
  try:
    source = sources.of(data, data.eval_split)
  except (ValueError, OSError):  # the data may have moved
    return {}
  return {'class_names': list(source.class_names)}
