"""Reads weights from any source: a name, a file of any kind, a run's folder."""

import pathlib
import zipfile
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nfnets import bucket, texts, variants
from nfnets.data import sources
from nfnets.weights import files, names, stacked, timm, torch_file
from nfnets.workdir import PROBE, RunFolder

_TORCH = ('.pth', '.pt', '.bin', '.tar')


def load(source: str | pathlib.Path, **options: Any) -> files.Weights:
  """`read`, and checks that the weights are complete and finite."""
  weights = read(source, **options)
  with files.one_line_errors(source):
    files.require_whole(weights, str(source))
  return weights


def read(
  source: str | pathlib.Path,
  *,
  model: str | None = None,
  averaged: bool = True,
) -> files.Weights:
  """Reads weights by name, from a file, or from a run.

  Args:
    source: a path, local or in a bucket, to a published file such as
      F0_haiku.npz, our .safetensors or .npz, timm's .safetensors or .pth, or a
      run's folder, whose newest checkpoint is read; or a name that `names.find`
      knows, which is downloaded once.
    model: the network's name; by default the one that the file states, or the
      one whose tensors it holds.
    averaged: whether to take the moving average, where a run or a PyTorch
      checkpoint holds one.

  Raises:
    ValueError, FileNotFoundError: the message is one line.
  """
  published, place = names.find(str(source)), source
  if published and not pathlib.Path(source).expanduser().exists():
    with files.one_line_errors(source):
      place, model = names.fetch(published), model or published.model or None
  with bucket.fetched(place) as path:
    if not path.exists():
      raise FileNotFoundError(names.near(str(source)))
    if not (path.is_file() or path.is_dir()):
      raise ValueError(f'{source}: neither a file nor a folder')
    with files.one_line_errors(source):
      weights = _read(path, model, averaged)
      if model:
        # timm's file of 'nfnet_f0' holds timm/nfnet_f0.
        allowed = {variants.canonical(m) for m in (model, f'timm/{model}')}
        if weights.model not in (None, *allowed):
          raise ValueError(f'it holds {weights.model}, not {model}')
      return weights


def of_run(
  workdir: str | pathlib.Path, config: ConfigDict | None = None
) -> dict[str, files.Weights]:
  """Reads a run's newest weights, 'eval' and, if averaged, 'eval_ema'.

  Those of a linear probe are in its `probe.safetensors`.

  Args:
    workdir: the run's folder; one in a bucket as `bucket.fetched` yields it.
    config: if given, must describe the run's network.

  Raises:
    ValueError: there is no run or no checkpoint, its network differs from
      `config`'s, or its weights aren't finite.
  """
  from nfnets import checkpoint  # takes a second, which files don't need

  folder = RunFolder(workdir)
  own = ConfigDict(folder.require_config())
  if config is not None:
    _require_same_network(folder, own, config)
  if own.get('probe') and folder.is_finished():
    return {'eval': load(folder.path / PROBE)}
  overrides = own.model.to_dict()
  name, num_classes = overrides.pop('name'), own.data.num_classes
  data = {'loss': own.get('loss', 'softmax')}
  described = files.Weights({}, {}, name, num_classes, overrides, data)
  files.check_metadata(described)
  overrides = files.as_overrides(overrides)
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
  data |= {key: own.data[key] for key in keys} | _class_names(folder, own.data)
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
  """The weights of the newest checkpoint; with `scan` they are stacked."""
  overrides = config.model.to_dict()
  name = overrides.pop('name')

  def wanted(as_trained: bool) -> dict[str, Any]:
    params, state = files.shapes(
      name, config.data.num_classes, as_trained=as_trained, **overrides
    )
    trees = {'params': params, 'state': state}  # all but the optimizer's
    if config.ema.mode != 'none':
      trees |= {'ema_params': params, 'ema_state': state}
    return trees

  try:
    return checkpoints.restore_latest(wanted(as_trained=True))
  except ValueError:
    if not overrides.get('scan'):
      raise
    # Older versions saved unstacked weights.
    return checkpoints.restore_latest(wanted(as_trained=False))


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
  if path.suffix != '.safetensors' and not zipfile.is_zipfile(path):
    return files.identify(files.read_published(path), model)
  arrays, metadata = files.read_ours(path)
  if path.suffix == '.safetensors' and any('/' not in x for x in arrays):
    return _of_timm(torch_file.plain_names(arrays), None, path, model)
  found = files.of_ours(arrays, metadata)
  return files.identify(found, model) if found.model is None else found


def _of_timm(
  arrays: dict[str, np.ndarray],
  key: str | None,
  path: pathlib.Path,
  model: str | None,
) -> files.Weights:
  """timm's weights, with the preprocessing that config.json beside them has."""
  config = {}
  if (beside := path.with_name('config.json')).exists():
    remedy = 'restore it, or move it away'
    config = texts.parse_json(beside.read_bytes(), str(beside), remedy)
  is_timms = 'architecture' in config  # a run's config.json has none
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


def _require_same_network(
  folder: RunFolder, own: ConfigDict, config: ConfigDict
) -> None:
  there, here, unset = _network(own), _network(config), 'not set'
  for key in ('name', *sorted(there | here)):
    old, new = there.get(key, unset), here.get(key, unset)
    if old != new:
      raise ValueError(
        f'{folder.path} holds a run of another network: config.model.{key} is '
        f'{old!r} there, {new!r} in the recipe; omit --config, or take the '
        'recipe of that run'
      )


def _network(config: ConfigDict) -> dict[str, Any]:
  """The network's name and arguments, whether from a recipe or from JSON."""
  return files.as_overrides(config.model.to_dict())


def _class_names(folder: RunFolder, data: ConfigDict) -> dict[str, Any]:
  names = folder.read_class_names()
  if names is not None:
    return {'class_names': names}
  try:  # older runs didn't record the names
    source = sources.of(data, data.eval_split)
  except (ValueError, OSError):  # the data may have moved
    return {}
  return {'class_names': list(source.class_names)}
