"""Where and with what a measurement was made, and tables of it."""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax

from nfnets import records

PACKAGES = ('jax', 'jaxlib', 'numpy', 'opencv-python-headless', 'simplejpeg')


def circumstances() -> dict[str, Any]:
  """Processor, cores, device, versions, and the load before the run."""
  versions = {'Python': platform.python_version()}
  for package in PACKAGES:
    versions[package] = metadata.version(package)
  device = jax.devices()[0]
  return {
    'processor': records.processor(),
    'cores': len(os.sched_getaffinity(0)),
    'device': device.device_kind,
    'devices': jax.local_device_count(),
    'load': round(os.getloadavg()[0], 1),
    'versions': versions,
  }


def command(module: str, arguments: Sequence[str]) -> str:
  """The command line, with places of this machine named only by kind."""
  return records.portable(['python', '-m', module, *arguments])


def describe(where: dict[str, Any]) -> str:
  """`circumstances` as a line of text."""
  versions = ', '.join(f'{k} {v}' for k, v in where['versions'].items())
  devices = f'{where["devices"]} x {where["device"]}'
  return (
    f'{where["processor"]}, {where["cores"]} cores; device {devices}; load '
    f'average {where["load"]} before; {versions}.'
  )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table whose columns line up in plain text too."""
  lines = [header, *rows]
  widths = [max(len(row[i]) for row in lines) for i in range(len(header))]

  def line(row: Sequence[str]) -> str:
    first, *rest = [
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths))
    ]
    return '| ' + ' | '.join([first, *rest]) + ' |'

  rule = [
    w * '-' if i == 0 else (w - 1) * '-' + ':' for i, w in enumerate(widths)
  ]
  return '\n'.join([line(header), line(rule), *map(line, rows)])


def number(value: float) -> str:
  """Three digits, and thousands apart: 0.0123, 4.56, 1,230."""
  if value >= 1000:
    digits = len(str(int(value))) - 3
    return f'{round(value, -digits):,.0f}'
  return f'{value:#.3g}'.rstrip('.')
