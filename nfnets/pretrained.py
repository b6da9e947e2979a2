"""Weights to start from, whoever wrote them, by one call."""

import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from nfnets import evaluate, workdir
from nfnets.data import sources
from nfnets.weights import files, timm, torch_file

KINDS = ('auto', 'published', 'ours', 'run', 'timm')


class Pretrained(NamedTuple):
  """Weights, which of `KINDS` they came as, and timm's name of the network."""

  weights: files.Weights
  kind: str
  timm_name: str | None = None


def read(
  source: str | pathlib.Path,
  kind: str = 'auto',
  *,
  timm_name: str | None = None,
  averaged: bool = True,
) -> Pretrained:
  """Reads a published file, one of ours, timm's, or a run's folder.

  Args:
    source: F0_haiku.npz and its like; .safetensors or .npz of ours;
      .safetensors or .pth of timm's; a run's folder, whose newest checkpoint
      counts.
    kind: one of `KINDS`; 'auto' tells it by the content.
    timm_name: of timm's network; None tells it by its parts.
    averaged: of a run, its averaged weights, if it averaged.

  Raises:
    ValueError, FileNotFoundError: with one line that says what is wrong.
  """
  source = pathlib.Path(source).expanduser()
  if kind not in KINDS:
    raise ValueError(f'no kind of weights {kind!r}: {", ".join(KINDS)}')
  if not source.exists():
    raise FileNotFoundError(f'{source}: no such file or folder')
  if kind == 'auto':
    kind = guess(source)
  if kind == 'run':
    return Pretrained(_of_run(source, averaged), kind)
  if kind == 'timm':
    weights, name = _of_timm(source, timm_name)
    return Pretrained(weights, kind, name)
  if kind == 'published':
    weights = files.identify(files.read_published(source))
    return Pretrained(weights, kind)
  return Pretrained(files.read(source), kind)


def guess(source: pathlib.Path) -> str:
  """'run', 'timm' or 'ours', which stands for published files too."""
  if source.is_dir():
    return 'run'
  if source.suffix in ('.pth', '.pt', '.bin', '.tar'):
    return 'timm'
  if source.suffix == '.safetensors':
    names = files.read_arrays(source)
    return 'ours' if all('/' in name for name in names) else 'timm'
  return 'ours'


def _of_timm(
  source: pathlib.Path, name: str | None
) -> tuple[files.Weights, str]:
  if source.suffix == '.safetensors':
    arrays = files.read_arrays(source)
  else:
    arrays = torch_file.read(source)
  name = name or timm.guess(arrays)
  params = timm.from_timm(arrays, name)
  if 'head.fc.bias' not in arrays:
    raise ValueError(f'{source}: no head.fc.bias; export the head too')
  peer, num_classes = timm.PEERS[name], arrays['head.fc.bias'].shape[0]
  return files.Weights(
    params, {}, peer.model, num_classes, peer.overrides
  ), name


def _of_run(folder: pathlib.Path, averaged: bool) -> files.Weights:
  found = evaluate.weights_of_run(folder)
  weights = found['eval']
  if averaged:
    weights = found.get('eval_ema', weights)
  config = ConfigDict(workdir.RunFolder(folder, must_exist=True).read_config())
  return weights._replace(data={**weights.data, **_class_names(config.data)})


def _class_names(data: ConfigDict) -> dict[str, Any]:
  try:
    source = sources.create(data.name, data.eval_split, data_dir=data.data_dir)
  except (ValueError, OSError):  # the data may have moved
    return {}
  return {'class_names': list(source.class_names)}
