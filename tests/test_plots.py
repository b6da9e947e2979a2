"""Plots of a run."""

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes

from nfnets import plots


def observed_rows(steps=(100, 200, 300)):
  """Stem always clipped, block 10 never, block 2 more and more."""
  return [
    {
      'step': step,
      'agc/clipped_fraction': 0.5,
      'agc/label/weight/clipped_fraction': 0.5,
      'agc/stage/stem/clipped_fraction': 1.0,
      'agc/Net/~/final_conv/clipped_fraction': 0.5,
      'agc/Net/~/block_10/~/conv0/clipped_fraction': 0.0,
      'agc/Net/~/block_2/~/conv0/clipped_fraction': index / 3,
      'agc/Net/~/stem_conv0/clipped_fraction': 1.0,
    }
    for index, step in enumerate(steps)
  ]


def test_the_heat_map_shows_layers_from_the_images_to_the_head(
  tmp_path, monkeypatch
):
  drawn = {}

  def pcolormesh(axis, edges, rows, shares, **kwargs):
    if not drawn:  # the colour bar is a mesh too
      drawn.update(edges=edges, shares=shares)
    return original(axis, edges, rows, shares, **kwargs)

  original = Axes.pcolormesh
  monkeypatch.setattr(Axes, 'pcolormesh', pcolormesh)
  rows = [{'step': 50, 'train/loss': 1.0}, *observed_rows()]
  assert plots.heat_map(rows, tmp_path / 'clipping.png', 'a run')
  assert drawn['edges'] == [0, 100, 200, 300]
  np.testing.assert_allclose(
    drawn['shares'],
    [[1, 1, 1], [0, 1 / 3, 2 / 3], [0, 0, 0], [0.5, 0.5, 0.5]],
  )
  picture = matplotlib.image.imread(tmp_path / 'clipping.png')
  assert picture.shape[1] == 1210 and len(np.unique(picture)) > 50


def test_a_single_observation_and_a_nan_are_plotted(tmp_path):
  rows = observed_rows([7])
  rows[0]['agc/Net/~/stem_conv0/clipped_fraction'] = 'nan'
  assert plots.heat_map(rows, tmp_path / 'clipping.png', 'a run')


def test_without_observations_nothing_is_plotted(tmp_path):
  rows = [{'step': 1, 'train/loss': 2.0, 'agc/clipped_fraction': 0.1}]
  assert not plots.heat_map(rows, tmp_path / 'clipping.png', 'a run')
  assert not list(tmp_path.iterdir())


def test_curves_show_whatever_was_logged(tmp_path):
  rows = [
    {'step': 1, 'train/loss': 2.0, 'train/learning_rate': 0.1},
    {'step': 2, 'train/loss': 'nan', 'eval/loss': 1.5, 'eval/top_1': 0.4},
  ]
  plots.plot(rows, tmp_path / 'curves.png', 'a run')
  picture = matplotlib.image.imread(tmp_path / 'curves.png')
  plots.plot([{'step': 1, 'train/loss': 2.0}], tmp_path / 'one.png', 'a run')
  one = matplotlib.image.imread(tmp_path / 'one.png')
  assert picture.shape[1] == pytest.approx(3 * one.shape[1], abs=2)
  plots.plot([], tmp_path / 'none.png', 'a run')  # stopped before a log
  assert not (tmp_path / 'none.png').exists()
