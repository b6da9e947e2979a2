"""What reports of trained experiments share: sections, tables, curves."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import _study, _trust
from nfnets.analysis import tables

# Okabe and Ito's, told apart by the color-blind too.
COLORS = (
  '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000',
)  # fmt: skip

Record = Mapping[str, Any]


def sections(
  records: Sequence[Record],
  scales: Mapping[str, Mapping[str, Any]],
  of_scale: Callable[[Sequence[Record], str, str], str],
) -> str:
  """The report, one section for each scale that has records.

  Args:
    records: of an experiment.
    scales: its `SCALES`.
    of_scale: from the records of one scale, what a caption says of it and the
      suffix of its pictures' names ('' or '_cpu') to markdown.
  """
  parts = []
  for scale, found in _study.by_scale(records, scales).items():
    note = scales[scale]['note']
    suffix = '' if scale == _study.FULL else f'_{scale}'
    body = of_scale(found, note, suffix)
    parts.append(f'## At scale {scale}: {note}\n\n{body}')
  return '\n\n'.join(parts)


def table(
  records: Sequence[Record],
  runs: Iterable[str],
  labels: Mapping[str, str],
  paper: Mapping[str, tuple[Any, str, str]] = {},
  growth: Callable[[Mapping[str, Any]], float] | None = None,
) -> str:
  """One line a row: test top-1 over seeds, losses, updates, published number.

  Rows that no record belongs to yet are named below the table. `growth`, of a
  row's config, stands in the place of the number of updates: see
  `_cifar.gain_growth`.
  """
  rows, found = [], _study.gather(records)
  for name in [run for run in runs if run in found]:
    mine = [r for r in records if r['row'] == name]
    rows.append(
      (
        f'`{name}` {labels.get(name, "")}'.strip(),
        found[name].text,
        len(mine),
        _mean([train_loss(r) for r in mine if r['status'] == 'finished']),
        _updates(mine, found[name].updates)
        if growth is None
        else _growth(growth(mine[0]['config'])),
        published(paper, name),
      )
    )
  measure = 'updates' if growth is None else 'growth of skip gains (7.9 opens)'
  header = ('row', 'test top-1, %', 'runs', 'training loss', measure)
  if paper:
    text = tables.markdown((*header, 'published'), rows)
  else:
    text = tables.markdown(header, [row[:-1] for row in rows])
  missing = [f'`{run}`' for run in runs if run not in found]
  if legend := _trust.tags(paper, found):
    text += f'\n{legend}\n'
  return text + (f'\nNot run yet: {", ".join(missing)}.\n' if missing else '')


def _growth(value: float) -> str:
  return f'{value:.1f}' if np.isfinite(value) else 'not bounded'


def _updates(records: Sequence[Record], planned: int) -> str:
  ends = sorted(r['updates'] for r in records if r['status'] == 'diverged')
  places = ', '.join(f'{update:,}' for update in ends)
  return f'{planned:,}' + (f', diverged at {places}' if ends else '')


def published(paper: Mapping[str, tuple[Any, str, str]], name: str) -> str:
  """A published number with the tag of how far to trust it."""
  if name not in paper:
    return ''
  return f'{_trust.shown(paper[name])} {paper[name][2]}'


def train_loss(record: Record) -> float:
  """The training loss that was logged last."""
  losses = [p['train/loss'] for p in record['curve'] if 'train/loss' in p]
  return losses[-1] if losses else float('nan')


def figure(width: float, height: float, title: str, note: str | None) -> Figure:
  """An empty figure with its title, and its scale on CIFAR-10 below that."""
  made = Figure(figsize=(width, height), layout='constrained')
  caption = f'{title}\nCIFAR-10: {note}' if note else title
  made.suptitle(caption, fontsize=11)
  return made


def finish(ax: Axes, x: str, y: str, title: str = '') -> None:
  """Names an axis and gives it the study's looks."""
  ax.set_xlabel(x)
  ax.set_ylabel(y)
  if title:
    ax.set_title(title, fontsize=10)
  ax.grid(alpha=0.25)
  ax.spines[['top', 'right']].set_visible(False)


def curves(
  ax: Axes,
  records: Sequence[Record],
  runs: Sequence[str],
  labels: Mapping[str, str],
  key: str,
  factor: float = 1.0,
  only: Sequence[str] | None = None,
) -> None:
  """A metric over updates: each row's mean over seeds, and its range.

  A diverged run ends in a cross, and is not in the mean. Of one that never came
  to the metric the cross is at the foot of a line.

  Args:
    ax: to draw on.
    records: of one scale.
    runs: rows, each of which has its color.
    labels: what the legend calls them.
    key: of the records' curves.
    factor: of all values.
    only: those of `runs` to draw, if not all.
  """
  for color, row in zip(COLORS, runs):
    if only is not None and row not in only:
      continue
    there, gone = [], []
    for record in [r for r in records if r['row'] == row]:
      (there if _series(record, key)[0].size else gone).append(record)
    done = [r for r in there if r['status'] == 'finished']
    for record in [r for r in gone if r['status'] != 'finished']:
      label = None if done else f'{labels[row]} (diverged)'
      ax.axvline(record['updates'], color=color, ls=':', lw=1)
      ax.plot(
        record['updates'], 0.03, 'x', color=color, ms=9, mew=2, label=label,
        transform=ax.get_xaxis_transform(),
      )  # fmt: skip
    if done:
      steps = _series(done[0], key)[0]
      values = factor * np.array([_series(r, key)[1] for r in done])
      ax.plot(steps, values.mean(0), 'o-', ms=4, color=color, label=labels[row])
      if len(done) > 1:
        ax.fill_between(
          steps, values.min(0), values.max(0), color=color, alpha=0.15, lw=0
        )
    for record in [r for r in there if r['status'] != 'finished']:
      steps, values = _series(record, key)
      label = None if done else f'{labels[row]} (diverged)'
      ax.plot(steps, factor * values, ':', color=color, label=label)
      ax.plot(steps[-1], factor * values[-1], 'x', color=color, ms=9, mew=2)


def lines(
  ax: Axes,
  rows: Mapping[str, _study.Row],
  series: Mapping[str, Mapping[float, str]],
  references: Mapping[str, str] = {},
  dashed: str = '',
) -> None:
  """Test top-1 over a hyperparameter on a logarithmic axis.

  A diverged run is a cross on the lower edge, where it reads as no accuracy;
  crosses of several series stand side by side.

  Args:
    ax: to draw on.
    rows: of one scale, see `_study.gather`.
    series: label to {the hyperparameter's value: its row}.
    references: a series' label to the row that a dashed line shows, named
      after `dashed`.
    dashed: what the dashed lines are.
  """
  ticks = sorted({x for places in series.values() for x in places})
  width, crosses = ticks[-1] / ticks[0], False
  for index, (color, label) in enumerate(zip(COLORS, series)):
    places = series[label]
    there = {x: rows[row] for x, row in places.items() if row in rows}
    done = {x: row for x, row in there.items() if row.values}
    if done:
      means = [row.mean for row in done.values()]
      spreads = [np.nan_to_num(row.spread) for row in done.values()]
      ax.errorbar(
        list(done), means, spreads, fmt='o-', color=color, label=label, ms=5
      )
    aside = width ** (0.022 * (index - (len(series) - 1) / 2))
    failed = [aside * x for x, row in there.items() if row.diverged]
    lower_edge(ax, failed, 'x', color=color, ms=9, mew=2)
    crosses = crosses or bool(failed)
    reference = rows.get(references.get(label, ''))
    if reference:
      ax.axhline(reference.worth, color=color, ls='--', lw=1)
  if references:
    ax.plot([], [], '--', color='0.4', lw=1, label=dashed)
  if crosses:
    ax.plot([], [], 'x', color='0.4', ms=9, mew=2, label='diverged')
  ax.set_xscale('log')
  ax.set_xticks(ticks, [f'{x:g}' for x in ticks])
  ax.minorticks_off()


def lower_edge(ax: Axes, x: Sequence[float], marker: str, **style: Any) -> None:
  """Markers on the axis' lower edge: of what has no value on it."""
  place = {'transform': ax.get_xaxis_transform(), 'clip_on': False, 'zorder': 3}
  if len(x):
    (line,) = ax.plot(x, [0.0] * len(x), marker, **place, **style)
    line.set_in_layout(False)


def bars(
  ax: Axes,
  rows: Mapping[str, _study.Row],
  runs: Iterable[str],
  labels: Mapping[str, str],
) -> None:
  """Test top-1 of each row, written beside its bar; the axis begins low."""
  names = [run for run in runs if run in rows]
  worth = [rows[name].worth for name in names]
  ax.barh([labels[n] for n in names], worth, color=COLORS[0], height=0.6)
  for place, name in enumerate(names):
    ax.text(worth[place], place, f' {rows[name].text}', va='center', fontsize=9)
  ax.set_xlim(0, 1.18 * max(worth))
  ax.invert_yaxis()


def legend(made: Figure, ax: Axes, columns: int = 3) -> None:
  """One legend for all axes, below them."""
  handles, labels = ax.get_legend_handles_labels()
  place = {'loc': 'outside lower center', 'ncols': columns, 'frameon': False}
  if unique := dict(zip(labels, handles)):
    made.legend(unique.values(), unique.keys(), **place)


def save(made: Figure, folder: pathlib.Path, name: str, caption: str) -> str:
  """Writes `name`.png and returns the markdown that shows it."""
  made.savefig(folder / f'{name}.png', dpi=130)
  return f'![{caption}]({name}.png)'


def _series(record: Record, key: str) -> tuple[np.ndarray, np.ndarray]:
  points = [p for p in record['curve'] if key in p]
  if not points:  # it diverged before its first evaluation
    points = [p for p in record.get('epochs', ()) if key in p]
  steps = np.array([p['step'] for p in points])
  return steps, np.array([p[key] for p in points])


def _mean(values: Sequence[float]) -> str:
  return f'{np.mean(values):.3f}' if values else '–'
