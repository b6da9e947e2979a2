"""The experiments' plots: `curves` over updates, `lines` over what rows vary.

An experiment's plot is a function that yields panels, which `draw` draws.
"""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.study import Experiment, NotRun, Plot, Row, Rows

# Okabe and Ito's colors, which suit color-blind readers, and a brown; then
# other markers.
COLORS = (
  '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000',
  '#8c6d31',
)  # fmt: skip
MARKERS = 'os^'
DIVERGED = 'diverged'
# A metric's key in records, the factor of its values, the label of its axis.
TOP_1 = ('eval/top_1', 100, 'test top-1 (%)')
LOSS = ('train/loss', 1, 'training loss')
CLIPPED = ('agc/clipped_fraction', 100, 'units above lambda (%)')


class Curve(NamedTuple):
  """Curves of one label share a color; NaN in y is a cross below the axes."""

  label: str
  x: Sequence[float] | Sequence[str]
  y: Sequence[float]
  error: Sequence[float] | None = None  # NaN for no bar
  line: str = '-'
  marker: str | None = None  # by default the label's


class Panel(NamedTuple):
  """The curves of one pair of axes."""

  x: str
  y: str
  curves: Sequence[Curve]
  title: str = ''
  log: str = ''  # logarithmic axes: 'x', 'y' or 'xy'


Panels = Iterable[Panel | Callable[[Axes], None]]


def draw(experiment: Experiment, found: Mapping[str, Rows]) -> Figure | None:
  """Draws the plot of one scale's rows; None if it shows nothing.

  The scale is the fullest of those with the largest share of their rows, a
  smoke test only if there is no other.
  """

  def worth(scale: str) -> tuple[bool, float]:
    share = len(found[scale]) / len(experiment.rows_at(scale))
    return not experiment.scales[scale].smoke, share

  scale = max(found, key=worth, default=next(iter(experiment.scales)))
  rows = found.get(scale, Rows({}))
  try:
    panels = experiment.plot(experiment, rows) if experiment.plot else ()
    panels = [p for p in panels if callable(p) or p.curves]
  except NotRun:
    return None
  if not panels:
    return None
  columns = len(panels) if len(panels) < 4 else 2
  lines = math.ceil(len(panels) / columns)
  size = max(7, 4.5 * columns), 0.8 + 3.6 * lines
  figure = Figure(figsize=size, layout='constrained')
  at = experiment.scales[scale]
  note = f'smoke test: {at.note}' if at.smoke else at.note
  note = textwrap.fill(note, int(13 * size[0]))
  figure.suptitle(f'{experiment.title}\n{note}', fontsize=10)
  axes = figure.subplots(lines, columns, squeeze=False)
  labels: dict[str, int] = {}
  for ax, panel in zip(axes.flat, panels):
    _draw_panel(ax, panel, labels) if isinstance(panel, Panel) else panel(ax)
  _legend(figure)
  return figure


def _draw_panel(ax: Axes, panel: Panel, labels: dict[str, int]) -> None:
  for label, x, y, error, line, marker in panel.curves:
    number = labels.setdefault(label, len(labels))
    color = COLORS[number % len(COLORS)]
    marker = MARKERS[number // len(COLORS) % 3] if marker is None else marker
    style = {'color': color, 'ls': line, 'marker': marker, 'ms': 5, 'lw': 1.4}
    if number % 2 and marker != 'X':  # a ring, so that dots inside it show
      style |= {'ms': 7.5, 'mfc': 'none'}
    error = np.nan_to_num(error or 0)  # a single seed has no spread
    error = error if error.any() else None  # the legend shows bars
    ax.errorbar(x, y, error, label=label, **style)
    if gone := [at for at, value in zip(x, y) if math.isnan(value)]:
      style = {'transform': ax.get_xaxis_transform(), 'clip_on': False}
      size = 12 - 2 * (number % 4)  # so that coinciding crosses are visible
      foot = ax.plot(gone, [0] * len(gone), 'x', color=color, ms=size, **style)
      foot[0].set_in_layout(False)
    if gone or marker == 'X':
      cross = {'color': 'black', 'ls': '', 'marker': 'x'}
      ax.add_line(Line2D([], [], label=DIVERGED, **cross))
  ax.set(xlabel=panel.x, ylabel=panel.y)
  ax.set_title(panel.title, fontsize=10)
  ax.grid(alpha=0.25)
  ax.spines[['top', 'right']].set_visible(False)
  ticks = {x for curve in panel.curves for x in curve.x}
  if any(isinstance(tick, str) for tick in ticks):
    ax.tick_params(axis='x', rotation=20)
  if 'x' in panel.log:
    ax.set_xscale('log')
    if len(ticks) < 12:
      ax.set_xticks(sorted(ticks), [f'{tick:g}' for tick in sorted(ticks)])
      ax.minorticks_off()
  if 'y' in panel.log:
    ax.set_yscale('log')


def _legend(figure: Figure) -> None:
  """Draws one legend for all axes, below them."""
  handles = {}
  for ax in figure.axes:
    for handle, label in zip(*ax.get_legend_handles_labels()):
      handles.setdefault(label, handle)
  if DIVERGED in handles:  # last
    handles[DIVERGED] = handles.pop(DIVERGED)
  if handles:
    place = {'loc': 'outside lower center', 'ncols': 3, 'frameon': False}
    place |= {'columnspacing': 1.0, 'handlelength': 1.5, 'fontsize': 8}
    figure.legend(handles.values(), handles.keys(), **place)


def curves(
  *metrics: tuple[str, float, str],
  level: Callable[[Rows], tuple[float, str]] | None = None,
) -> Plot:
  """Plots metrics of all runs over updates; a diverged run ends in a cross.

  Args:
    *metrics: `TOP_1`, `LOSS` or `CLIPPED`, one for each panel.
    level: from the rows to an accuracy that a dashed line shows, and its label.
  """

  def panels(experiment: Experiment, rows: Rows) -> Panels:
    for metric in metrics if rows else ():
      found = []
      for name, row in rows.items():
        if metric != CLIPPED or 'agc' in name:
          found += _runs(experiment.label(name), row, metric)
      if level and metric == TOP_1:
        value, label = level(rows)
        ends = [0, max(row.updates for row in rows.values())]
        found.append(Curve(label, ends, [value] * 2, line='--', marker=''))
      yield Panel('update', metric[2], found)

  return panels


def _runs(
  label: str, row: Row, metric: tuple[str, float, str]
) -> Iterable[Curve]:
  key, factor, _ = metric
  averaged = key.replace('eval/', 'eval_ema/')  # as in tables
  if any(averaged in point for r in row.records for point in r['curve']):
    key = averaged
  for run in row.records:
    points = [p for p in run['curve'] if key in p]
    points = points or [p for p in run.get('epochs', ()) if key in p]
    steps = [p['step'] for p in points]
    values = [factor * p[key] for p in points]
    if run['status'] == 'finished':
      yield Curve(label, steps, values)
    elif steps:
      yield Curve(label, steps, values, line=':')
      yield Curve(label, steps[-1:], values[-1:], line='', marker='X')
    else:
      yield Curve(label, [run['updates']], [math.nan])


Place = Callable[[str], tuple[float | str, str] | None]


def lines(x: str, place: str | Place, by: str = '') -> Plot:
  """Plots top-1 over what varies in rows' names; published numbers apart.

  Rows whose names have no such part are dashed lines.

  Args:
    x: the label of the x axis.
    place: a regular expression whose group is the number or word that varies;
      the rest of the name is the curve's. Or a function from a name to both,
      or to None.
    by: a regular expression: its match in a curve's name is the panel's title.
  """
  locate = _locator(place) if isinstance(place, str) else place

  def panels(experiment: Experiment, rows: Rows) -> Panels:
    published = {
      name: (math.nan if isinstance(number, str) else number, 0.0, [])
      for name, (number, *_) in experiment.published.items()
      if locate(name)
    }
    ours = {n: (row.mean, row.spread, row.diverged) for n, row in rows.items()}
    for title, values in (('published', published), ('here', ours)):
      apart: dict[str, list[Curve]] = {}
      for name, curve in _series(values, locate).items():
        found = re.search(by, name)
        named = curve._replace(label=experiment.label(name))
        apart.setdefault(found[0] if found else '', []).append(named)
      for name, found in apart.items():
        heading = name and experiment.label(name)
        heading = f'{title} {heading}'.strip() if published else heading
        is_word = any(isinstance(at, str) for c in found for at in c.x)
        if is_word and len(found) == 1:  # words have no order
          found = [found[0]._replace(line='')]
        yield Panel(x, 'top-1 (%)', found, heading, '' if is_word else 'x')

  return panels


def _locator(pattern: str) -> Place:
  def locate(name: str) -> tuple[float | str, str] | None:
    match = re.search(pattern, name)
    if match is None:
      return None
    rest = f'{name[: match.start()]} {name[match.end() :]}'.strip('_- ')
    is_number = match[1].replace('.', '', 1).isdecimal()
    return float(match[1]) if is_number else match[1], rest

  return locate


def _series(
  values: Mapping[str, tuple[float, float, Sequence[int]]], locate: Place
) -> dict[str, Curve]:
  """Curves by name, from the mean, spread and diverged runs of each row."""
  points: dict[str, list[tuple]] = {}
  ends: set = set()
  for name, (mean, spread, diverged) in values.items():
    if place := locate(name):
      series = points.setdefault(place[1], [])
      series.append((place[0], mean, spread))
      ends.add(place[0])
      if diverged and not math.isnan(mean):
        series.append((place[0], math.nan, 0.0))
  found = {name: Curve('', *zip(*series)) for name, series in points.items()}
  for name, (mean, *_) in values.items():
    if locate(name) is None and ends:
      level = [min(ends), max(ends)], [mean] * 2
      found[name] = Curve('', *level, line='--', marker='')
  return found
