"""The experiments' plots: `curves`, `lines` and `bars` each make a `Plot`."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.study import Experiment, NotRun, Plot, Rows

# Okabe and Ito's, told apart by the color-blind too.
COLORS = (
  '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000',
)  # fmt: skip
# A record's key, the factor of its values, what the axis is called.
TOP_1 = ('eval/top_1', 100, 'test top-1 (%)')
LOSS = ('train/loss', 1, 'training loss')
CLIPPED = ('agc/clipped_fraction', 100, 'units above lambda (%)')

Found = Mapping[str, Rows]


def figure(
  experiment: Experiment, found: Found, width: float = 7, height: float = 4.2
) -> tuple[Figure, Rows]:
  """An empty figure, its title, and the rows of the fullest scale there is."""
  if not found:
    raise NotRun(experiment.title)
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


def curves(
  *panels: tuple[str, float, str],
  level: Callable[[Rows], tuple[float, str]] | None = None,
) -> Plot:
  """Metrics over updates, a panel each: `TOP_1`, `LOSS`, `CLIPPED`.

  Args:
    *panels: what to draw.
    level: from the rows to an accuracy that a dashed line shows, and its label.
  """

  def plot(experiment: Experiment, found: Found) -> Figure:
    made, rows = figure(experiment, found, max(7, 4 * len(panels)))
    axes = made.subplots(1, len(panels), squeeze=False)[0]
    for ax, (key, factor, name) in zip(axes, panels):
      for color, row in zip(COLORS, experiment.rows):
        if row in rows and (key != CLIPPED[0] or 'agc' in row):
          label = experiment.label(row)
          _draw_runs(ax, rows[row].records, key, factor, color, label)
      if level and key == TOP_1[0]:
        value, label = level(rows)
        ax.axhline(value, color='0.4', ls='--', lw=1, label=label)
      finish(ax, 'update', name)
    legend(made, axes[0])
    return made

  return plot


def _draw_runs(
  ax: Axes, runs: Sequence[Any], key: str, factor: float, color: str, label: str
) -> None:
  """The finished runs' mean and range; each diverged run ends in a cross.

  Of one that never came to the metric the cross is at the foot of a line.
  """
  done, gone = [], []
  for run in runs:
    points = [p for p in run['curve'] if key in p]
    points = points or [p for p in run.get('epochs', ()) if key in p]
    steps = [p['step'] for p in points]
    values = factor * np.array([p[key] for p in points])
    if run['status'] != 'finished':
      gone.append((run, steps, values))
    elif steps:
      done.append((steps, values))
  if done:
    values = np.array([values for _, values in done])
    ax.plot(done[0][0], values.mean(0), 'o-', ms=4, color=color, label=label)
    ends = values.min(0), values.max(0)
    ax.fill_between(done[0][0], *ends, color=color, alpha=0.15, lw=0)
  style = {'color': color, 'ls': ':', 'lw': 1}
  style['label'] = None if done else f'{label} (diverged)'
  cross = {'color': color, 'ms': 9, 'mew': 2}
  for run, steps, values in gone:
    if steps:
      ax.plot(steps, values, **style)
      ax.plot(steps[-1], values[-1], 'x', **cross)
    else:
      ax.axvline(run['updates'], **style)
      draw_at_foot(ax, [run['updates']], 'x', **cross)


def lines(
  x: str,
  panels: Mapping[str, Mapping[str, Mapping[float, str]]],
  references: Mapping[str, str] = {},
  dashed: str = '',
) -> Plot:
  """Test top-1 over a hyperparameter, a panel for each title.

  Args:
    x: the hyperparameter.
    panels: title to the panel's series: label to {x: row}.
    references: a series' label to the row that a dashed line shows.
    dashed: what the dashed lines are.
  """

  def plot(experiment: Experiment, found: Found) -> Figure:
    made, rows = figure(experiment, found, max(7, 5 * len(panels)))
    axes = made.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, series) in zip(axes, panels.items()):
      draw_lines(ax, rows, series)
      for color, label in zip(COLORS, series):
        if references.get(label) in rows:
          mean = rows[references[label]].mean
          ax.axhline(mean, color=color, ls='--', lw=1)
      if references:
        ax.plot([], [], '--', color='0.4', lw=1, label=dashed)
      finish(ax, x, TOP_1[2], title)
    legend(made, axes[0])
    return made

  return plot


def draw_lines(
  ax: Axes, rows: Rows, series: Mapping[str, Mapping[float, str]]
) -> None:
  """Test top-1 on a logarithmic axis; series: label to {x: row}.

  A diverged run is a cross on the lower edge, where it reads as no accuracy;
  crosses of several series stand side by side.
  """
  found = {
    label: {x: rows[name] for x, name in places.items() if name in rows}
    for label, places in series.items()
  }
  found = {label: there for label, there in found.items() if there}
  if not found:
    return
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


def bars(y: str = '') -> Plot:
  """Test top-1 of each row, written beside its bar."""

  def plot(experiment: Experiment, found: Found) -> Figure:
    height = 1.4 + 0.33 * len(experiment.rows)
    made, rows = figure(experiment, found, 7, height)
    ax = made.subplots()
    means = [np.nan_to_num(row.mean) for row in rows.values()]
    labels = [experiment.label(name) for name in rows]
    ax.barh(labels, means, color=COLORS[0], height=0.6)
    for place, row in enumerate(rows.values()):
      ax.text(means[place], place, f' {row.text}', va='center', fontsize=9)
    ax.set_xlim(0, 1.18 * max(means))
    ax.invert_yaxis()
    finish(ax, TOP_1[2], y)
    return made

  return plot
