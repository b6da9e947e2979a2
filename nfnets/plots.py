"""One run's curves and its clipping, as pictures."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

PANELS = (
  ('loss', ('train/loss', 'eval/loss', 'eval_ema/loss'), 1.0),
  ('top-1 (%)', ('train/top_1', 'eval/top_1', 'eval_ema/top_1'), 100.0),
  ('learning rate', ('train/learning_rate',), 1.0),
)


def plot(
  rows: Sequence[Mapping[str, Any]], path: pathlib.Path, title: str
) -> None:
  """Draws loss, accuracy and learning rate against the step, as PNG, if any.

  Args:
    rows: lines of metrics.jsonl.
    path: of the picture.
    title: above it.
  """
  from matplotlib.figure import Figure  # no global state, no display

  panels = []
  for label, names, scale in PANELS:
    lines = {
      name: [
        (row['step'], scale * row[name])
        for row in rows
        if isinstance(row.get(name), int | float)
      ]
      for name in names
    }
    if any(lines.values()):
      panels.append((label, lines))
  if not panels:
    return
  figure = Figure(figsize=(3.7 * len(panels), 3.4), layout='constrained')
  figure.suptitle(title)
  axes = figure.subplots(1, len(panels), squeeze=False)[0]
  for axis, (label, lines) in zip(axes, panels):
    for name, points in lines.items():
      if points:
        style = '-' if name.startswith('train/') else 'o-'
        axis.plot(*zip(*points), style, markersize=3, label=name)
    axis.set_xlabel('step')
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)
    axis.legend(fontsize='small')
  figure.savefig(path, dpi=110)


def heat_map(
  rows: Sequence[Mapping[str, Any]], path: pathlib.Path, title: str
) -> bool:
  """Draws AGC's share of clipped units per layer and step, as PNG.

  Args:
    rows: lines of metrics.jsonl.
    path: of the picture.
    title: above it.

  Returns:
    Whether there was anything to draw: a run observes AGC if
    `config.observe_every` isn't 0.
  """
  name = re.compile(r'agc/(?!label/|stage/)(.+)/clipped_fraction')
  observed = [row for row in rows if any(name.fullmatch(key) for key in row)]
  if not observed:
    return False
  from matplotlib.figure import Figure

  found = {m.group(1) for row in observed for key in row
           if (m := name.fullmatch(key))}  # fmt: skip
  layers = sorted(found, key=_place)
  shares = [
    [_number(row.get(f'agc/{layer}/clipped_fraction')) for row in observed]
    for layer in layers
  ]
  labels = [layer.partition('/~/')[2].replace('/~/', ' ') for layer in layers]
  height = min(1.6 + 0.16 * len(layers), 24)
  figure = Figure(figsize=(11, height), layout='constrained')
  axis = figure.subplots()
  # Steps as they are: a resumed run's, or a last one, needn't be even.
  mesh = axis.pcolormesh(
    _edges([row['step'] for row in observed]),
    [index - 0.5 for index in range(len(layers) + 1)],
    shares,
    vmin=0,
    vmax=1,
    cmap='viridis',
  )
  shown = range(0, len(layers), 1 + len(layers) // 150)
  axis.set_yticks(shown, [labels[index] for index in shown], fontsize=6)
  axis.invert_yaxis()
  axis.set_xlabel('step')
  axis.set_title(title)
  figure.colorbar(mesh, ax=axis, label='share of clipped units')
  figure.savefig(path, dpi=110)
  return True


def _place(layer: str) -> tuple[int, int, str]:
  """Sorts layers from the images to the head; block 2 before block 10."""
  block = re.search(r'block(?:_v\d+)?(?:_(\d+))?(?=/|$)', layer)
  if block:
    return 1, int(block.group(1) or 0), layer
  return (0 if re.search('/(stem|initial)', layer) else 2), 0, layer


def _number(value: Any) -> float:
  return value if isinstance(value, int | float) else float('nan')


def _edges(steps: Sequence[int]) -> list[float]:
  middles = [(a + b) / 2 for a, b in zip(steps, steps[1:])]
  half = (steps[1] - steps[0]) / 2 if len(steps) > 1 else 0.5
  last = (steps[-1] - steps[-2]) / 2 if len(steps) > 1 else 0.5
  return [steps[0] - half, *middles, steps[-1] + last]
