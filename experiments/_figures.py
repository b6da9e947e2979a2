"""The experiments' plots: some that many share, and panels for others.

`curves`, `lines` and `bars` each make the `plot` of an `Experiment`; what they
draw, `draw_curves` and so on, also stands as a panel in a plot of another kind.
"""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.study import Experiment, Plot, Rows

# Okabe and Ito's, told apart by the color-blind too.
COLORS = (
  '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000',
)  # fmt: skip
# A record's key, the factor of its values, what the axis is called.
TOP_1 = ('eval/top_1', 100, 'test top-1 (%)')
LOSS = ('train/loss', 1, 'training loss')
CLIPPED = ('agc/clipped_fraction', 100, 'units above lambda (%)')

Series = Mapping[str, Mapping[float, str]]


def curves(
  *panels: tuple[str, float, str],
  level: Callable[[Rows], tuple[float, str]] | None = None,
) -> Plot:
  """Plots metrics over updates, a panel each: `TOP_1`, `LOSS`, `CLIPPED`.

  Args:
    *panels: what to draw.
    level: from the rows to an accuracy that a dashed line shows, and its label.
  """

  def plot(experiment: Experiment, found: Mapping[str, Rows]) -> Figure | None:
    if not found:
      return None
    made, rows = figure(experiment, found, max(7, 4 * len(panels)))
    labels = {name: experiment.label(name) for name in experiment.rows}
    axes = made.subplots(1, len(panels), squeeze=False)[0]
    for ax, panel in zip(axes, panels):
      only = 'agc' if panel is CLIPPED else ''
      draw_curves(ax, rows, labels, *panel[:2], only=only)
      if level and panel is TOP_1:
        value, label = level(rows)
        ax.axhline(value, color='0.4', ls='--', lw=1, label=label)
      finish(ax, 'update', panel[2])
    legend(made, axes[0])
    return made

  return plot


def lines(
  x: str,
  panels: Mapping[str, Series],
  references: Mapping[str, str] = {},
  dashed: str = '',
) -> Plot:
  """Plots test top-1 over a hyperparameter.

  Args:
    x: the hyperparameter.
    panels: title to series, see `draw_lines`; one panel needs no title.
    references, dashed: see `draw_lines`.
  """

  def plot(experiment: Experiment, found: Mapping[str, Rows]) -> Figure | None:
    if not found:
      return None
    made, rows = figure(experiment, found, max(7, 5 * len(panels)))
    axes = made.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, series) in zip(axes, panels.items()):
      draw_lines(ax, rows, series, references, dashed)
      finish(ax, x, TOP_1[2], title)
    legend(made, made.axes[0])
    return made

  return plot


def bars(y: str = '') -> Plot:
  """Plots test top-1 of each row."""

  def plot(experiment: Experiment, found: Mapping[str, Rows]) -> Figure | None:
    if not found:
      return None
    height = 1.4 + 0.33 * len(experiment.rows)
    made, rows = figure(experiment, found, 7, height)
    ax = made.subplots()
    draw_bars(ax, rows, {n: experiment.label(n) for n in experiment.rows})
    finish(ax, TOP_1[2], y)
    return made

  return plot


def figure(
  experiment: Experiment,
  found: Mapping[str, Rows],
  width: float = 7,
  height: float = 4.2,
) -> tuple[Figure, Rows]:
  """An empty figure, its title, and the rows of the fullest scale there is."""
  made = Figure(figsize=(width, height), layout='constrained')
  scale, rows = next(iter(found.items()))
  at = experiment.scales[scale]
  note = f'smoke test: {at.note}' if at.smoke else at.note
  note = textwrap.fill(note, int(13 * width))
  made.suptitle(f'{experiment.title}\n{note}', fontsize=10)
  return made, rows


def finish(ax: Axes, x: str, y: str, title: str = '') -> None:
  """Names an axis and gives it the study's looks."""
  ax.set_xlabel(x)
  ax.set_ylabel(y)
  if title:
    ax.set_title(title, fontsize=10)
  ax.grid(alpha=0.25)
  ax.spines[['top', 'right']].set_visible(False)


def legend(made: Figure, ax: Axes, columns: int = 3) -> None:
  """One legend for all axes, below them."""
  handles, labels = ax.get_legend_handles_labels()
  place = {'loc': 'outside lower center', 'ncols': columns, 'frameon': False}
  if unique := dict(zip(labels, handles)):
    made.legend(unique.values(), unique.keys(), **place)


def draw_curves(
  ax: Axes,
  rows: Rows,
  labels: Mapping[str, str],
  key: str,
  factor: float = 1.0,
  only: str = '',
) -> None:
  """A metric over updates: each row's mean over seeds, and its range.

  A diverged run ends in a cross, and is not in the mean. Of one that never came
  to the metric the cross is at the foot of a line.

  Args:
    ax: to draw on.
    rows: of one scale.
    labels: of the rows to draw, in the order of colors.
    key: of the records' curves.
    factor: of all values.
    only: what the names of rows must hold.
  """
  for color, (name, label) in zip(COLORS, labels.items()):
    if name not in rows or only not in name:
      continue
    runs = [(r, *_series(r, key)) for r in rows[name].records]
    done = [
      (steps, factor * values)
      for record, steps, values in runs
      if record['status'] == 'finished' and steps.size
    ]
    if done:
      values = np.array([values for _, values in done])
      ax.plot(done[0][0], values.mean(0), 'o-', ms=4, color=color, label=label)
      if len(done) > 1:
        ends = values.min(0), values.max(0)
        ax.fill_between(done[0][0], *ends, color=color, alpha=0.15, lw=0)
    label = None if done else f'{label} (diverged)'
    for record, steps, values in runs:
      if record['status'] == 'finished':
        continue
      if steps.size:
        ax.plot(steps, factor * values, ':', color=color, label=label)
        ax.plot(steps[-1], factor * values[-1], 'x', color=color, ms=9, mew=2)
      else:
        ax.axvline(record['updates'], color=color, ls=':', lw=1, label=label)
        draw_at_foot(ax, [record['updates']], 'x', color=color, ms=9, mew=2)


def _series(record: Mapping[str, Any], key: str) -> tuple[np.ndarray, ...]:
  """Steps and values; by epoch where it ended before its first evaluation."""
  points = [p for p in record['curve'] if key in p]
  points = points or [p for p in record.get('epochs', ()) if key in p]
  steps = np.array([p['step'] for p in points])
  return steps, np.array([p[key] for p in points])


def draw_lines(
  ax: Axes,
  rows: Rows,
  series: Mapping[str, Mapping[float, str]],
  references: Mapping[str, str] = {},
  dashed: str = '',
) -> None:
  """Test top-1 over a hyperparameter on a logarithmic axis.

  A diverged run is a cross on the lower edge, where it reads as no accuracy;
  crosses of several series stand side by side.

  Args:
    ax: to draw on.
    rows: of one scale.
    series: label to {the hyperparameter's value: its row}.
    references: a series' label to the row that a dashed line shows.
    dashed: what the dashed lines are.
  """
  found = {
    label: {x: rows[name] for x, name in places.items() if name in rows}
    for label, places in series.items()
  }
  found = {label: there for label, there in found.items() if there}
  ticks = sorted({x for there in found.values() for x in there})
  width, crosses = ticks[-1] / ticks[0], False
  for index, (color, (label, there)) in enumerate(zip(COLORS, found.items())):
    done = {x: row for x, row in there.items() if row.values}
    if done:
      means = [row.mean for row in done.values()]
      spreads = [np.nan_to_num(row.spread) for row in done.values()]
      style = {'color': color, 'label': label, 'ms': 5}
      ax.errorbar(list(done), means, spreads, fmt='o-', **style)
    aside = width ** (0.022 * (index - (len(found) - 1) / 2))
    failed = [aside * x for x, row in there.items() if row.diverged]
    draw_at_foot(ax, failed, 'x', color=color, ms=9, mew=2)
    crosses = crosses or bool(failed)
    if references.get(label) in rows:
      ax.axhline(rows[references[label]].mean, color=color, ls='--', lw=1)
  if references:
    ax.plot([], [], '--', color='0.4', lw=1, label=dashed)
  if crosses:
    ax.plot([], [], 'x', color='0.4', ms=9, mew=2, label='diverged')
  ax.set_xscale('log')
  ax.set_xticks(ticks, [f'{x:g}' for x in ticks])
  ax.minorticks_off()


def draw_at_foot(
  ax: Axes, x: Sequence[float], marker: str, **style: Any
) -> None:
  """Markers on the axis' lower edge: of what has no value on it."""
  place = {'transform': ax.get_xaxis_transform(), 'clip_on': False, 'zorder': 3}
  if len(x):
    (line,) = ax.plot(x, [0.0] * len(x), marker, **place, **style)
    line.set_in_layout(False)


def draw_bars(ax: Axes, rows: Rows, labels: Mapping[str, str]) -> None:
  """Test top-1 of each row, written beside its bar."""
  names = [name for name in labels if name in rows]
  means = [0.0 if math.isnan(rows[n].mean) else rows[n].mean for n in names]
  ax.barh([labels[n] for n in names], means, color=COLORS[0], height=0.6)
  for place, name in enumerate(names):
    ax.text(means[place], place, f' {rows[name].text}', va='center', fontsize=9)
  ax.set_xlim(0, 1.18 * max(means, default=1))
  ax.invert_yaxis()
