"""What plots of the papers' experiments show of runs without an accuracy."""

import matplotlib.figure
import pytest

from experiments import (
  _plots,
  _study,
  figure_batch_size,
  figure_clipping,
  table_ablation,
)


def row(*values, diverged=0):
  return _study.Row(values, diverged, 100_000)


@pytest.fixture
def drawn(monkeypatch):
  """The figures that a report saves."""
  found = []
  monkeypatch.setattr(
    matplotlib.figure.Figure,
    'savefig',
    lambda self, *_, **__: found.append(self),
  )
  return found


def legend_of(axis):
  return [text.get_text() for text in axis.get_legend().get_texts()]


def test_a_run_at_chance_is_hollow_and_a_diverged_one_is_on_the_edge(
  drawn, tmp_path
):
  rows = {
    'bs4096_clip0.01': row(48.0),
    'bs4096_clip0.02': row(10.0),
    'bs4096_clip0.04': row(diverged=1),
  }
  figure_clipping._plot(rows, tmp_path)
  (axis,) = drawn[0].axes
  lines = [line for line in axis.lines if len(line.get_xdata()) == 1]
  face = {line.get_xdata()[0]: line.get_markerfacecolor() for line in lines}
  assert face[0.02] == 'white' != face[0.01]
  (cross,) = [line for line in lines if line.get_marker() == 'x']
  assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (0.04, 0)
  assert cross.get_transform() == axis.get_xaxis_transform()
  assert legend_of(axis)[-2:] == ['at chance', 'diverged']


def test_published_points_below_70_are_marked_on_the_lower_edge(
  drawn, tmp_path
):
  figure_batch_size._plot({}, tmp_path)
  left, _ = drawn[0].axes
  marks = [
    line
    for line in left.lines
    if line.get_marker() == 'v' and len(line.get_xdata())
  ]
  assert [line.get_xdata()[0] for line in marks] == pytest.approx(
    [4096, 4096], rel=0.1
  )
  assert all(
    line.get_transform() == left.get_xaxis_transform() for line in marks
  )
  assert legend_of(left)[-1].startswith('below 70')
  assert drawn[0].get_suptitle() == ''


def test_over_a_hyperparameter_diverged_runs_read_as_no_accuracy():
  axis = matplotlib.figure.Figure().subplots()
  rows = {'a': row(70.0), 'b': row(diverged=1), 'c': row(diverged=1)}
  series = {'BN': {0.1: 'a', 1.0: 'b'}, 'NF': {0.1: 'a', 1.0: 'c'}}
  _plots.lines(axis, rows, series)
  assert 'diverged' in axis.get_legend_handles_labels()[1]
  crosses = [
    line
    for line in axis.lines
    if line.get_marker() == 'x' and len(line.get_xdata())
  ]
  assert [line.get_ydata()[0] for line in crosses] == [0, 0]
  left, right = (line.get_xdata()[0] for line in crosses)
  assert 0.9 < left < 1.0 < right < 1.1
  assert axis.get_ylim()[0] > 60
  axis = matplotlib.figure.Figure().subplots()
  _plots.lines(axis, {'a': row(70.0)}, series)
  assert 'diverged' not in axis.get_legend_handles_labels()[1]


def test_the_ablation_shows_our_rows_with_their_scale_beside_the_published(
  drawn, tmp_path
):
  table_ablation._plot({}, {}, tmp_path)
  table_ablation._plot(
    {}, {'f0_baseline': row(51.0), 'f0_width': row(diverged=1)}, tmp_path
  )
  (alone,), (_, ours) = (figure.axes for figure in drawn)
  assert 'ImageNet' in alone.get_title()
  assert 'CIFAR-10' in ours.get_title() and 'runs a row: 1' in ours.get_title()
