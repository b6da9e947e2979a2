"""Weights to start from, whoever wrote them, by one call."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nfnets import bucket, texts, variants
from nfnets.data import sources
from nfnets.weights import files, match, names, stacked, timm, torch_file
from nfnets.workdir import RunFolder

_TORCH = ('.pth', '.pt', '.bin', '.tar')


def load(source: str | pathlib.Path, **options: Any) -> files.Weights:
  """`read`, where the weights must be a whole network's, and finite."""
  weights = read(source, **options)
  with _one_line(source):
    files.require_whole(weights, str(source))
  return weights


def read(
  source: str | pathlib.Path,
  *,
  model: str | None = None,
  averaged: bool = True,
) -> files.Weights:
  """Reads weights by name, from a file, or of a run.

  Args:
    source: a path: F0_haiku.npz and its like, .safetensors or .npz of ours,
      .safetensors or .pth of timm's, a run's folder, whose newest checkpoint
      counts, any of them here or in a bucket; or a name that `names.find`
      knows, which is downloaded once.
    model: the network; None tells it by what the file says or by its tensors.
    averaged: of a run or a checkpoint of PyTorch that averaged its weights,
      the average.

  Raises:
    ValueError, FileNotFoundError: with one line that says what is wrong.
  """
  published, place = names.find(str(source)), source
  if published and not pathlib.Path(source).expanduser().exists():
    with _one_line(source):
      place, model = names.fetch(published), model or published.model or None
  with bucket.fetched(place) as path:
    if not path.exists():
      raise FileNotFoundError(names.near(str(source)))
    if not (path.is_file() or path.is_dir()):
      raise ValueError(f'{source}: neither a file nor a folder')
    with _one_line(source):
      weights = _read(path, model, averaged)
      if model and weights.model not in (None, *_same(model)):
        raise ValueError(f'it holds {weights.model}, not {model}')
      return weights


def of_run(
  workdir: str | pathlib.Path, config: ConfigDict | None = None
) -> dict[str, files.Weights]:
  """A run's newest weights: `eval`, and `eval_ema` if it averaged.

  Args:
    workdir: the run's folder, local (bucket.fetched).
    config: if given, must describe the run's own network.

  Raises:
    ValueError: there is no run or no checkpoint, its network is another, or its
      numbers aren't finite.
  """
  # It takes a second to import, and files don't need it.
  from nfnets import checkpoint

  folder = RunFolder(workdir, must_exist=True)
  own = ConfigDict(folder.require_config())
  if config is not None and _network(config) != _network(own):
    raise ValueError(
      f'{folder.path} holds a run of another network: {_network(own)} there, '
      f'{_network(config)} here'
    )
  overrides = own.model.to_dict()
  name, num_classes = overrides.pop('name'), own.data.num_classes
  files.check_metadata(files.Weights({}, {}, name, num_classes, overrides))
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
  data = {key: own.data[key] for key in keys} | _class_names(folder, own.data)
  weights = {
    prefix: files.Weights(
      *map(stacked.unstack, trees), name, num_classes, overrides, data
    )
    for prefix, trees in found.items()
  }
  for one in weights.values():
    files.require_finite(one, str(folder.path))
  return weights


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
  path: pathlib.Path, model: str | None, averaged: bool
) -> files.Weights:
  if path.is_dir():
    found = of_run(path)
    if 'eval_ema' not in found:
      return found['eval']
    if averaged:
      return found['eval_ema']._replace(note="the run's averaged weights")
    return found['eval']._replace(note="the run's last weights, not averaged")
  if path.suffix in _TORCH:
    return _of_timm(*torch_file.read(path, averaged), path, model)
  if path.suffix == '.safetensors':
    arrays = files.read_safetensors(path)
    if any('/' not in name for name in arrays):
      return _of_timm(torch_file.plain_names(arrays), None, path, model)
  return files.read(path, model)


def _of_timm(
  arrays: dict[str, np.ndarray],
  key: str | None,
  path: pathlib.Path,
  model: str | None,
) -> files.Weights:
  """timm's weights, and what the config.json beside them says."""
  config = {}
  if (beside := path.with_name('config.json')).exists():
    remedy = 'restore it, or move it away'
    config = texts.parse_json(beside.read_bytes(), str(beside), remedy)
  is_timms = 'architecture' in config  # and no run's
  if is_timms:
    model = model or config['architecture']
  name = timm.known(model) if model else timm.guess(arrays)
  bias = arrays.get('head.fc.bias', ())
  note = f"weights of the file's {key!r}" if key else ''
  weights = files.Weights(
    timm.from_timm(arrays, name), {}, name, len(bias), note=note
  )
  if is_timms:
    weights = weights._replace(data=names.data_of(config))
    files.check_metadata(weights)
  return weights


def _same(model: str) -> tuple[str, ...]:
  """The networks that a name may mean: ours, and timm's of that name."""
  return variants.canonical(model), variants.canonical(f'timm/{model}')


def _network(config: ConfigDict) -> dict[str, Any]:
  # Tuples and lists say the same.
  return {
    key: list(value) if isinstance(value, tuple | list) else value
    for key, value in config.model.to_dict().items()
  }


def _class_names(folder: RunFolder, data: ConfigDict) -> dict[str, Any]:
  names = folder.read_class_names()
  if names is not None:
    return {'class_names': names}
  try:  # a run of an older version: what the data say now
    source = sources.of(data, data.eval_split)
  except (ValueError, OSError):  # the data may have moved
    return {}
  return {'class_names': list(source.class_names)}
