"""Markdown tables of measurements, and of where they were taken."""

import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from tabulate import tabulate


def circumstances() -> str:
  """Command, processor, device, initial load and version, as Markdown."""
  words = ['python', '-m', 'scripts.benchmark', *sys.argv[1:]]
  return (
    f'    {shlex.join(words)}\n\n{processor()}, {os.cpu_count()} cores; '
    f'device {jax.devices()[0].device_kind}; load average '
    f'{os.getloadavg()[0]:.1f} before; jax {jax.__version__}.\n'
  )


def processor() -> str:
  """The processor's name, or its architecture where the system hides it."""
  path = pathlib.Path('/proc/cpuinfo')
  text = path.read_text() if path.exists() else ''
  name = text.partition('model name\t: ')[2].partition('\n')[0]
  return name or platform.machine()


def steps(results: Sequence[Mapping[str, Any]]) -> str:
  """Tabulates results of `step_time`."""
  rows = []
  for result in results:
    names = ('model', 'mode', 'image_size', 'batch_size', 'precision', 'clip')
    row = {key.replace('_', ' '): str(result[key]) for key in names}
    row['ms a step (quartiles)'] = spread(result['seconds'], 1e3)
    row['images/s'] = number(result['images_per_second'])
    if result['utilization']:
      row['of peak FLOP/s'] = f'{result["utilization"]:.1%}'
    row['trace + compile, s'] = (
      f'{result["trace_seconds"]:.1f} + {result["compile_seconds"]:.1f}'
    )
    row['memory, GiB'] = number(result['memory']['peak'] / 2**30)
    if 'ratio' in result:
      about = result['about']
      versions = ' '.join(f'{k} {v}' for k, v in about['versions'].items())
      row['theirs, ms'] = spread(result['theirs'], 1e3)
      ends = ('lowest', 'highest')
      row['ours / theirs (extremes)'] = spread(result['ratio'], ends=ends)
      row['theirs is'] = f'{result["peer"]}, {about["compile"]}, {versions}'
    rows.append(row)
  return table(rows)


def pieces(found: Mapping[str, Mapping[str, Any]]) -> str:
  """Tabulates the result of `pieces.measure`."""
  plain = found['plain']
  rows = [
    {
      'step': name,
      'of the plain step (quartiles)': spread(values['ratio']),
      'temporary, MiB': f'{values["temp"] / 2**20:,.0f}',
    }
    for name, values in found.items()
  ]
  return f'{table(rows)}\n\nA plain step takes {spread(plain["seconds"])} s.'


def rates(found: Mapping[str, Any]) -> str:
  """Tabulates the result of `input.measure`, and names the bottleneck."""
  rows = [
    {
      'stage': name,
      'images/s (quartiles)': spread(values['per_second']),
      'a core': spread(values['per_core']),
    }
    for name, values in found['rates'].items()
  ]
  return f'{table(rows)}\n\nBottleneck: {found["bottleneck"]}.'


def table(rows: Sequence[Mapping[str, str]]) -> str:
  """Returns a Markdown table whose columns are the rows' keys."""
  return tabulate(
    rows, headers='keys', tablefmt='github', disable_numparse=True
  )


def spread(
  values: Mapping[str, float],
  factor: float = 1.0,
  ends: tuple[str, str] = ('low', 'high'),
) -> str:
  """Formats a `clock.spread` as its median and, in parentheses, two ends."""
  middle, low, high = (number(factor * values[k]) for k in ('median', *ends))
  return f'{middle} ({low}, {high})'


def number(value: float) -> str:
  """Formats to three digits, with separators: 0.0123, 4.56, 1,230."""
  return f'{float(f"{value:.3g}"):,.10g}'
