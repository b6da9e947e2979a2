"""Measured steps as tables, and a file of them that can be gone on with."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from nfnets.bench import report

SAME = [
  'model',
  'batch_size',
  'image_size',
  'precision',
  'mode',
  'clip',
  'ema',
  'overrides',
  'against',
  'device',
]


class Record:
  """Results in a JSON file, written after each one; a run again goes on.

  Args:
    path: None keeps them in memory alone.
    where: `report.circumstances` and the command, kept with each new result.
  """

  def __init__(self, path: str | None, where: dict[str, Any]):
    self._path = pathlib.Path(path) if path else None
    self._where = where
    self.results: list[dict[str, Any]] = []
    if self._path and self._path.exists():
      self.results = json.loads(self._path.read_text())['results']

  def find(self, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The result of the same question on the same device, errors left out."""
    for result in self.results:
      if 'error' not in result and _same(result) == _same(asked):
        return result
    return None

  def add(self, result: dict[str, Any]) -> None:
    """Takes the place of an earlier answer to the same question."""
    kept = [r for r in self.results if _same(r) != _same(result)]
    self.results = [*kept, result | {'where': self._where}]
    if self._path:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      text = json.dumps({'results': self.results}, indent=1)
      self._path.write_text(text + '\n')


def _same(result: dict[str, Any]) -> str:
  return json.dumps([result.get(key) for key in SAME])


def page(title: str, results: Sequence[dict[str, Any]]) -> str:
  """A section of Markdown: the results by the circumstances they share."""
  lines = [f'## {title}']
  groups: dict[str, list[dict[str, Any]]] = {}
  for result in results:
    groups.setdefault(json.dumps(result['where']), []).append(result)
  for where, members in groups.items():
    where = json.loads(where)
    lines += ['', f'    {where["command"]}', '', report.describe(where), '']
    alone = [r for r in members if 'ratio' not in r]
    lines += [steps_table(alone)] if alone else []
    pairs = [r for r in members if 'ratio' in r]
    lines += [''] * bool(alone and pairs)
    lines += [pairs_table(pairs)] if pairs else []
  return '\n'.join(lines) + '\n'


def line(result: dict[str, Any]) -> str:
  """One result in short, for whoever waits."""
  what = ', '.join(_asked(result))
  if 'error' in result:
    return f'{what}: {result["error"]}'
  if 'ratio' in result:
    return f'{what}: {result["ratio"]["median"]:.3f} of {result["peer"]}'
  return f'{what}: {report.number(result["seconds"]["median"] * 1e3)} ms'


def steps_table(results: Sequence[dict[str, Any]]) -> str:
  header = [
    'model', 'mode', 'px', 'batch', 'precision', 'ms a step', 'quartiles',
    'images/s', 'steps', 'trace + compile s', 'peak GiB', 'of peak FLOP/s',
  ]  # fmt: skip
  return report.table(header, [_step_row(r, len(header)) for r in results])


def _step_row(result: dict[str, Any], width: int) -> list[str]:
  row = _asked(result)
  if 'error' in result:
    return row + [result['error'][:60]] + [''] * (width - len(row) - 1)
  seconds = result['seconds']
  low, middle, high = (
    report.number(seconds[key] * 1e3) for key in ('low', 'median', 'high')
  )
  compiled = f'{result["trace_seconds"]:.1f} + {result["compile_seconds"]:.1f}'
  return row + [
    middle,
    f'{low} to {high}',
    report.number(result['images_per_second']),
    str(result['steps']),
    compiled,
    f'{report.number(result["peak_bytes"] / 2**30)} ({result["peak_source"]})',
    f'{100 * result["utilization"]:.1f} %',
  ]


def pairs_table(results: Sequence[dict[str, Any]]) -> str:
  header = [
    'model', 'mode', 'px', 'batch', 'precision', 'ours, ms', 'theirs, ms',
    'ratio, median', 'lowest to highest', 'theirs is',
  ]  # fmt: skip
  rows = []
  for result in results:
    ours, theirs = (
      report.number(_median(result[side]) * 1e3) for side in ('ours', 'theirs')
    )
    ratio = result['ratio']
    rows.append(
      _asked(result)
      + [
        ours,
        theirs,
        f'{ratio["median"]:.2f}',
        f'{ratio["low"]:.2f} to {ratio["high"]:.2f}',
        _peer(result),
      ]
    )
  return report.table(header, rows)


def _peer(result: dict[str, Any]) -> str:
  about = result['peer_about']
  how = about['compile'] if about['compile'] != 'none' else 'eager'
  versions = ' '.join(f'{k} {v}' for k, v in about['versions'].items())
  return f'{result["peer"]}, {how}, {versions}'


def _asked(result: dict[str, Any]) -> list[str]:
  mode = result['mode']
  if mode == 'train' and result['clip'] != 'none':
    mode += f', {result["clip"]}'
  if result.get('ema'):
    mode += ', ema'
  size, count = str(result['image_size']), str(result['batch_size'])
  return [result['model'], mode, size, count, result['precision']]


def _median(values: list[float]) -> float:
  ordered = sorted(values)
  middle = len(ordered) // 2
  return (ordered[middle] + ordered[~middle]) / 2
