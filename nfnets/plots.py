"""Plots of one run: its curves, and what AGC clipped."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]  # lines of metrics.jsonl

PANELS = {  # label: (metric names, factor)
  'loss': (('train/loss', 'eval/loss', 'eval_ema/loss'), 1.0),
  'top-1 (%)': (('train/top_1', 'eval/top_1', 'eval_ema/top_1'), 100.0),
  'learning rate': (('train/learning_rate',), 1.0),
}
CLIPPED = re.compile(r'agc/(?!label/|stage/)(.+)/clipped_fraction')


def plot(rows: Rows, path: pathlib.Path, title: str) -> None:
  """Plots loss, accuracy and learning rate, if logged, to a PNG at `path`."""
  from matplotlib.figure import Figure  # no global state, no display

  panels = {
    label: lines
    for label, (names, factor) in PANELS.items()
    if (lines := _lines(rows, names, factor))
  }
  if not panels:
    return
  figure = Figure(figsize=(3.7 * len(panels), 3.4), layout='constrained')
  figure.suptitle(title)
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  for axis, (label, lines) in zip(axes, panels.items()):
    for name, points in lines.items():
      style = '-' if name.startswith('train/') else 'o-'
      axis.plot(*zip(*points), style, markersize=3, label=name)
    axis.set(xlabel='step', ylabel=label)
    axis.grid(alpha=0.3)
    axis.legend(fontsize='small')
  figure.savefig(path, dpi=110)


def heat_map(rows: Rows, path: pathlib.Path, title: str) -> bool:
  """Plots the fraction of units that AGC clips, by layer and step, as PNG.

  Returns whether it was logged, as it is unless `config.observe_every` is 0.
  """
  from matplotlib.figure import Figure

  observed = [
    (row['step'], shares)
    for row in rows
    if (shares := {k: row[k] for k in row if CLIPPED.fullmatch(k)})
  ]
  if not observed:
    return False
  steps, shares = zip(*observed)
  keys = sorted({key for one in shares for key in one}, key=_place)
  labels = [
    CLIPPED.fullmatch(key)[1].partition('/~/')[2].replace('/~/', ' ')
    for key in keys
  ]
  height = min(1.8 + 0.16 * len(keys), 24)
  figure = Figure(figsize=(11, height), layout='constrained')
  axis = figure.subplots()
  # Each cell extends back to the previous observation.
  mesh = axis.pcolormesh(
    [0, *steps],
    [index - 0.5 for index in range(len(keys) + 1)],
    [[float(one.get(key, 'nan')) for one in shares] for key in keys],
    vmin=0,
    vmax=1,
    cmap='viridis',
  )
  shown = range(0, len(keys), 1 + len(keys) // 150)
  axis.set_yticks(shown, [labels[index] for index in shown], fontsize=6)
  axis.invert_yaxis()
  title = f"Share of each layer's units that AGC clips\n{title}"
  axis.set(xlabel='step', ylabel='layer', title=title)
  figure.colorbar(mesh, ax=axis, label='share of units clipped by AGC')
  figure.savefig(path, dpi=110)
  return True


def _lines(
  rows: Rows, names: Sequence[str], factor: float
) -> dict[str, list[tuple[int, float]]]:
  """[(step, value), ...] by name, without non-finite values ('nan')."""
  found: dict[str, list[tuple[int, float]]] = {}
  for name in names:
    for row in rows:
      if isinstance(value := row.get(name), int | float):
        found.setdefault(name, []).append((row['step'], factor * value))
  return found


def _place(layer: str) -> tuple[int, int, str]:
  """Sort key: layers from stem to head, block 2 before block 10."""
  block = re.search(r'block(?:_v\d+)?(?:_(\d+))?(?=/|$)', layer)
  if block:
    return 1, int(block.group(1) or 0), layer
  return (0 if re.search('/(stem|initial)', layer) else 2), 0, layer
