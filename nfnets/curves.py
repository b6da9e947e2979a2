"""One run's curves as a picture."""

import pathlib
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
  """Draws loss, accuracy and learning rate against the step, as PNG.

  Args:
    rows: lines of metrics.jsonl.
    path: of the picture.
    title: above it.
  """
  from matplotlib.figure import Figure  # no global state, no display

  figure = Figure(figsize=(11, 3.4), layout='constrained')
  figure.suptitle(title)
  for axis, (label, names, scale) in zip(
    figure.subplots(1, len(PANELS)), PANELS
  ):
    for name in names:
      points = [
        (row['step'], scale * row[name])
        for row in rows
        if isinstance(row.get(name), int | float)
      ]
      if points:
        style = '-' if name.startswith('train/') else 'o-'
        axis.plot(*zip(*points), style, markersize=3, label=name)
    axis.set_xlabel('step')
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)
    if axis.lines:
      axis.legend(fontsize='small')
  figure.savefig(path, dpi=110)
