"""Published weights by name: a table of them, and their download.

Only what is named is downloaded, once: files from the Hugging Face Hub go to
its own cache, DeepMind's to the folder `cache()`. Their hashes are checked.
"""

import difflib
import errno
import hashlib
import importlib.util
import os
import pathlib
import re
import shutil
import sys
import tempfile
import urllib.request
from typing import Any, NamedTuple

from nfnets import variants

DEEPMIND = 'https://storage.googleapis.com/dm-nfnets'
_HUB = 'hf-hub:'
REMEDY = (
  'check the connection, or pass the path of a file: nfnets.load(PATH), '
  '--weights=PATH'
)


class Published(NamedTuple):
  """Published weights.

  Attributes:
    model: a name of `variants.ALL`.
    top_1: accuracy in percent on ImageNet's validation set, at the network's
      evaluation size.
    source: who measured it.
    licence: of the weights, as stated by their publisher.
    file, md5: DeepMind's file name and its hash; empty for timm's.
    repo: the repository on the Hugging Face Hub; empty for DeepMind's.
  """

  model: str
  top_1: float | None
  source: str
  licence: str
  file: str = ''
  md5: str = ''
  repo: str = ''


# Paper A, Table 3; the hashes are those that other projects list.
_OF_DEEPMIND = (
  (83.6, '0a41039da1cb43adf47f1b7d86ddfe0f'),
  (84.7, 'c9126bbfaf855f9ddb7ff3b902558781'),
  (85.1, '7a018d8d1498020e2f5a8719a1e7f53f'),
  (85.7, 'd8e1e78d26db659c486150dbaccbe78a'),
  (85.9, 'f5974a7e3388aa81b91a9f1403e759a4'),
  (86.0, '8639e925de951030651ac775b9f915c3'),
  (86.5, 'b16cca40ac1ecec2bd5e3273866da0c1'),  # with SAM
)
# timm's results/results-imagenet.csv.
_OF_TIMM = {
  'dm_nfnet_f0.dm_in1k': 83.5,
  'dm_nfnet_f1.dm_in1k': 84.7,
  'dm_nfnet_f2.dm_in1k': 85.2,
  'dm_nfnet_f3.dm_in1k': 85.7,
  'dm_nfnet_f4.dm_in1k': 85.8,
  'dm_nfnet_f5.dm_in1k': 86.1,
  'dm_nfnet_f6.dm_in1k': 86.4,
  'nfnet_l0.ra2_in1k': 82.8,
  'eca_nfnet_l0.ra2_in1k': 82.6,
  'eca_nfnet_l1.ra2_in1k': 84.0,
  'eca_nfnet_l2.ra3_in1k': 84.7,
  'nf_regnet_b1.ra2_in1k': 79.4,
  'nf_resnet50.ra2_in1k': 80.7,
  'test_nfnet.r160_in1k': None,
}
PUBLISHED = {
  f'nfnet_f{n}': Published(
    f'nfnet_f{n}', top_1, 'paper A', 'not stated', f'F{n}_haiku.npz', md5
  )
  for n, (top_1, md5) in enumerate(_OF_DEEPMIND)
} | {
  name: Published(
    variants.canonical('timm/' + name.split('.')[0]),
    top_1,
    'timm' if top_1 else '',
    'Apache-2.0',
    repo=f'timm/{name}',
  )
  for name, top_1 in _OF_TIMM.items()
}


def find(source: str) -> Published | None:
  """Returns the published weights that `source` names, or None.

  Args:
    source: a key of `PUBLISHED`; 'timm/NAME', or NAME if only timm has that
      network, with or without the tag after the dot; 'hf-hub:OWNER/NAME',
      optionally with '@REVISION', for any repository in timm's layout; one of
      DeepMind's URLs.
  """
  by_url = {f'{DEEPMIND}/{x.file}': x for x in PUBLISHED.values() if x.file}
  if source in by_url:
    return by_url[source]
  if source in PUBLISHED:
    return PUBLISHED[source]
  repo = source.removeprefix(_HUB)
  for found in PUBLISHED.values():
    if found.repo and repo in (found.repo, found.repo.split('.')[0]):
      return found
  if source in variants.TIMM:  # a bare name that no other network has
    theirs = (x for x in PUBLISHED.values() if x.repo and x.model == source)
    return next(theirs, None)
  if source.startswith(_HUB) and re.fullmatch(r'[\w.-]+/[\w.@-]+', repo):
    return Published('', None, '', '', repo=repo)
  return None


def near(source: str) -> str:
  """The error message for a source that is no file, folder or known name."""
  name = source.removeprefix(_HUB).removeprefix('timm/')
  for found, weights in PUBLISHED.items():
    if weights.file and name.endswith(weights.file):
      return (
        f'{source}: no such file; the name {found} downloads it from '
        f'{DEEPMIND}/{weights.file}'
      )
  likely = difflib.get_close_matches(name, PUBLISHED, n=2, cutoff=0.7)
  model = name.split('.')[0]
  if model in variants.ALL:
    likely = [x for x in PUBLISHED if x.split('.')[0] == model]
    if not likely:
      return f'{source}: no such file, and {model} has no published weights'
  hint = f'; did you mean {" or ".join(likely)}?' if likely else ''
  return f'{source}: no such file, folder or name of published weights{hint}'


def fetch(published: Published) -> pathlib.Path:
  """Returns the file's path, after downloading it if it isn't cached.

  Raises:
    ImportError: huggingface_hub isn't installed.
    OSError: the server can't be reached, or doesn't have the file.
    ValueError: the file's hash is wrong.
  """
  if published.repo:
    return _from_hub(published.repo)
  target = cache() / published.file
  if not target.exists():
    _download(f'{DEEPMIND}/{published.file}', target)
  _check(target, published.md5, 'md5')
  return target


def cache() -> pathlib.Path:
  """The folder of DeepMind's files: $NFNETS_CACHE, or ~/.cache/nfnets."""
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  path = os.environ.get('NFNETS_CACHE') or f'{base}/nfnets'
  return pathlib.Path(path).expanduser()


def _download(url: str, target: pathlib.Path) -> None:
  target.parent.mkdir(parents=True, exist_ok=True)
  print(f'downloading {url} to {target}', file=sys.stderr, flush=True)
  with tempfile.TemporaryDirectory(dir=target.parent) as folder:
    part = pathlib.Path(folder) / target.name
    try:
      with (
        urllib.request.urlopen(url, timeout=60) as response,
        part.open('wb') as file,
      ):
        shutil.copyfileobj(response, file, 2**20)
    except OSError as error:
      if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise
      reason = getattr(error, 'reason', None)  # of urllib's errors
      why = reason if isinstance(reason, OSError) else error
      raise OSError(
        f'{url} cannot be downloaded to {target.parent} '
        f'({why.strerror or why}): {REMEDY}'
      ) from None
    part.replace(target)


def _from_hub(repo: str) -> pathlib.Path:
  """The path of model.safetensors in the Hub's cache, beside config.json."""
  if importlib.util.find_spec('huggingface_hub') is None:
    raise ImportError(
      f'{_HUB}{repo} needs huggingface_hub: pip install huggingface_hub'
    )
  import huggingface_hub as hub
  from huggingface_hub.utils import disable_progress_bars, logging

  if not sys.stderr.isatty():
    disable_progress_bars()
  level = logging.get_verbosity()
  logging.set_verbosity_error()  # it logs every retry
  name, _, revision = repo.partition('@')
  try:
    for file in ('config.json', 'model.safetensors'):
      path = hub.hf_hub_download(name, file, revision=revision or None)
  except hub.errors.LocalEntryNotFoundError:
    raise OSError(
      f'{_HUB}{repo} is not in the cache {hub.constants.HF_HUB_CACHE}, and '
      f'{hub.constants.ENDPOINT} cannot be reached: {REMEDY}'
    ) from None
  except (
    hub.errors.RepositoryNotFoundError,
    hub.errors.RevisionNotFoundError,
    hub.errors.EntryNotFoundError,
  ):
    raise OSError(
      f'{hub.constants.ENDPOINT} has no repository {repo} with a {file}'
    ) from None
  finally:
    logging.set_verbosity(level)
  # The path links to a file that the cache names by its SHA-256, if large.
  blob = pathlib.Path(os.path.realpath(path))
  if re.fullmatch(r'[0-9a-f]{64}', blob.name):
    _check(blob, blob.name, 'sha256')
  return pathlib.Path(path)


def _check(path: pathlib.Path, wanted: str, algorithm: str) -> None:
  """Removes the file and raises ValueError unless it has the wanted hash."""
  with open(path, 'rb') as file:
    found = hashlib.file_digest(file, algorithm).hexdigest()
  if found != wanted:
    size = path.stat().st_size
    path.unlink()
    raise ValueError(
      f'the downloaded file ({size:,} bytes) has the {algorithm.upper()} '
      f'{found}, not {wanted}; it was removed: try again'
    )


def data_of(config: Any) -> dict[str, Any]:
  """Translates the content of timm's config.json to `Weights.data`."""
  told = config.get('pretrained_cfg', config)
  size = told.get('test_input_size')
  share = (size and told.get('test_crop_pct')) or told.get('crop_pct', 0.875)
  crop = f'{told.get("crop_mode", "center")}_{float(share)}'
  filter = told.get('interpolation', 'bicubic')
  data = {
    'eval_image_size': (size or told['input_size'])[-1],
    'eval_preprocessing': crop + ('' if filter == 'bicubic' else f'_{filter}'),
  }
  data |= {key: [255 * x for x in told[key]] for key in ('mean', 'std')}
  names = config.get('label_names')
  return data | ({'class_names': list(names)} if names else {})
