"""Size and latency of a network on its way out: here, exported, and in timm."""

import json
import pathlib
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib import metadata, util
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from nfnets.bench import report
from nfnets.weights import certificate, export, exported, files, folding, timm

PEER = 'dm_nfnet_f0'  # timm's name; its GELU is exact, and so is ours then
BATCHES = (1, 32)
RUNTIMES = {
  'jax': 'JAX, as trained',
  'folded': 'JAX, folded',
  'stablehlo': 'StableHLO, reloaded',
  'onnx': 'ONNX, onnxruntime',
  'timm': 'timm, PyTorch',
}
_FILES = {
  'jax': 'weights.safetensors',
  'folded': 'folded.safetensors',
  'stablehlo': 'network.zip',
  'onnx': 'network.onnx',
  'timm': 'timm.safetensors',
}
_TIMM = """
import json, sys, time
import numpy, safetensors.torch, timm, torch

name, folder, num_classes, num_runs, seconds = sys.argv[1:]
start = time.perf_counter()
model = timm.create_model(name, num_classes=int(num_classes)).eval()
model.load_state_dict(safetensors.torch.load_file(f'{folder}/timm.safetensors'))
images = torch.from_numpy(numpy.load(f'{folder}/images.npy'))
images = images.permute(0, 3, 1, 2).contiguous()
with torch.inference_mode():
  logits = model(images)
  ready, times = time.perf_counter() - start, []
  while len(times) < int(num_runs) or sum(times) < float(seconds):
    start = time.perf_counter()
    model(images)
    times.append(time.perf_counter() - start)
numpy.save(f'{folder}/logits.npy', logits.numpy())
versions = {'timm': timm.__version__, 'torch': torch.__version__}
print(json.dumps({'ready': ready, 'times': times, 'versions': versions}))
"""


def prepare(
  folder: pathlib.Path,
  weights: files.Weights,
  image_size: int,
  peer: str | None,
) -> None:
  """Writes one network in every form that is at hand, for `measure`.

  Args:
    folder: to hold the files.
    weights: of the network.
    image_size: side of its images.
    peer: timm's name of it, if it has one.
  """
  folder.mkdir(parents=True, exist_ok=True)
  files.write(folder / _FILES['jax'], weights)
  files.write(folder / _FILES['folded'], folding.fold_weights(weights))
  for name in export.FORMATS:
    if name == 'stablehlo' or util.find_spec('onnxruntime'):
      export.write(folder / _FILES[name], weights, name, image_size=image_size)
  if peer:
    leaves = timm.to_timm(weights.params, peer)
    safetensors.numpy.save_file(leaves, folder / _FILES['timm'])


def measure(
  runtime: str,
  folder: pathlib.Path,
  batch: int,
  image_size: int,
  *,
  num_runs: int = 3,
  seconds: float = 3.0,
) -> dict[str, Any]:
  """Runs what `prepare` wrote on random images, again and again.

  Returns:
    'ready': seconds from nothing to the first result, compilation included;
    'times': seconds of each run after it, at least `num_runs` of them and
    `seconds` in all; 'logits' `[N, K]`; 'bytes' of the file.

  Raises:
    ValueError: the runtime isn't one of `RUNTIMES`, or isn't at hand.
  """
  if runtime not in RUNTIMES:
    raise ValueError(f'no runtime {runtime!r}: use some of {", ".join(_FILES)}')
  path = folder / _FILES[runtime]
  if not path.exists():
    raise ValueError(f'{RUNTIMES[runtime]}: {path.name} was not prepared')
  random = np.random.RandomState(batch)
  shape = (batch, image_size, image_size, 3)
  images = random.standard_normal(shape).astype(np.float32)
  size = {'bytes': path.stat().st_size}
  if runtime == 'timm':
    return size | _measure_timm(folder, images, num_runs, seconds)
  start = time.perf_counter()
  run = _loaded(runtime, path)
  logits = run(images)
  ready, times = time.perf_counter() - start, []
  while len(times) < num_runs or sum(times) < seconds:
    start = time.perf_counter()
    run(images)
    times.append(time.perf_counter() - start)
  return size | {'ready': ready, 'times': times, 'logits': logits}


def update(
  path: pathlib.Path,
  runtimes: Sequence[str],
  command: str,
  folder: pathlib.Path,
  *,
  image_size: int = 192,
  seconds: float = 3.0,
) -> str:
  """Measures some runtimes, and writes `path`.md and `path`.json anew.

  The network is `PEER` with random weights. What other runtimes took stays.
  """
  results = path.with_suffix('.json')
  record = json.loads(results.read_text()) if results.exists() else {}
  record.setdefault('runtimes', {})
  record |= {'network': PEER, 'image_size': image_size, 'command': command}
  if not (folder / _FILES['jax']).exists():
    weights = certificate.random_weights(PEER)
    prepare(folder, weights, image_size, PEER)
  for runtime in runtimes:
    rows = {}
    for batch in BATCHES:
      row = measure(runtime, folder, batch, image_size, seconds=seconds)
      expected = folder / f'logits_{batch}.npy'
      if runtime == 'jax':
        np.save(expected, row['logits'])
      wanted = np.load(expected)
      error = np.abs(row.pop('logits') - wanted).max() / np.abs(wanted).max()
      rows[str(batch)] = row | {'error': float(error)}
    record['runtimes'][runtime] = rows
    record['where'] = _where(record.get('where', {}), rows)
    results.write_text(json.dumps(record, indent=1) + '\n')
  text = page(record)
  path.with_suffix('.md').write_text(text)
  return text


def page(record: dict[str, Any]) -> str:
  """A record as Markdown."""
  batches = [str(batch) for batch in BATCHES]
  header = ['', 'file, MiB', 'ready after, s']
  header += [f'{b} at once, s' for b in batches]
  header += [f'images/s at {batches[-1]}', 'logits differ by']
  lines = []
  for runtime, title in RUNTIMES.items():
    rows = record['runtimes'].get(runtime)
    if rows is None:
      continue
    seconds = [float(np.median(rows[batch]['times'])) for batch in batches]
    lines.append(
      [
        title,
        f'{rows[batches[0]]["bytes"] / 2**20:.1f}',
        f'{rows[batches[0]]["ready"]:.1f}',
        *[f'{second:.3f}' for second in seconds],
        report.number(int(batches[-1]) / seconds[-1]),
        f'{max(row["error"] for row in rows.values()):.0e}',
      ]
    )
  size = record['image_size']
  return f"""# What an exported network weighs and takes

{record['network']} of timm, which is nfnet_f0 here, with random weights, at
{size} x {size} pixels in float32, 1,000 classes. Written by
`{record['command']}`.
{report.describe(record['where'])}

{report.table(header, lines)}

*Ready* is from nothing to the first result of batch {batches[0]}, compilation
included where there is any. Then medians of at least three runs. *Logits differ
by*: the largest difference from the first row's logits, as a share of the
largest logit. The exported files take any batch; those of the other rows are
weights alone.
"""


def _loaded(
  runtime: str, path: pathlib.Path
) -> Callable[[np.ndarray], np.ndarray]:
  if runtime in export.FORMATS:
    return exported.load(str(path)).run
  weights = files.load(path)
  run = jax.jit(export.inference(weights))
  leaves = jax.device_put(export.leaves_of(weights))
  return lambda images: np.asarray(run(leaves, images))


def _measure_timm(
  folder: pathlib.Path, images: np.ndarray, num_runs: int, seconds: float
) -> dict[str, Any]:
  python = certificate.python_with_timm()
  if python is None:
    raise ValueError(
      'timm cannot be imported; name a Python that can in NFNETS_TIMM_PYTHON'
    )
  np.save(folder / 'images.npy', images)
  num_classes = files.read(folder / _FILES['jax']).num_classes
  words = [PEER, folder, num_classes, num_runs, seconds]
  done = subprocess.run(
    [python, '-c', _TIMM, *map(str, words)],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise ValueError(f'timm fails: {done.stderr.strip().splitlines()[-1]}')
  found = json.loads(done.stdout.splitlines()[-1])
  return found | {'logits': np.load(folder / 'logits.npy')}


def _where(before: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
  """Circumstances of all runtimes so far; the load is the first one's."""
  where = report.circumstances()
  for package in ('onnx', 'onnxruntime'):
    if util.find_spec(package):
      where['versions'][package] = metadata.version(package)
  for row in rows.values():
    where['versions'] |= row.pop('versions', {})
  versions = before.get('versions', {}) | where['versions']
  return where | {
    'load': before.get('load', where['load']),
    'versions': versions,
  }
