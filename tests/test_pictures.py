"""Plots for the page: small, and the same bytes every time."""

import base64
import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nfnets.pages import pictures


def plot(width=8):
  figure = Figure(figsize=(width, 3))
  axis = figure.subplots()
  axis.plot(np.arange(10), np.arange(10) ** 2, label='square')
  axis.legend()
  out = io.BytesIO()
  figure.savefig(out, dpi=150)
  return out.getvalue()


def test_a_plot_loses_its_metadata_and_most_of_its_bytes():
  before = plot()
  after = pictures.shrunken(before)
  assert b'Software' in before and b'matplotlib' not in after
  assert len(after) < 0.6 * len(before)
  image = Image.open(io.BytesIO(after))
  assert not image.info.get('dpi') and not image.text
  old = np.asarray(Image.open(io.BytesIO(before)).convert('RGB'), float)
  new = np.asarray(image.convert('RGB').resize(old.shape[1::-1]), float)
  assert np.abs(old - new).mean() < 3  # of 255


def test_the_same_plot_gives_the_same_bytes_and_shrinks_once():
  once = pictures.shrunken(plot())
  assert pictures.shrunken(once) == once
  assert pictures.shrunken(plot()) == once


def test_a_wide_plot_is_scaled_to_the_page():
  image = Image.open(io.BytesIO(pictures.shrunken(plot(16))))
  assert image.width == pictures.MAX_WIDTH


def test_a_data_uri_holds_the_file(tmp_path):
  path = tmp_path / 'p.png'
  path.write_bytes(plot())
  pictures.shrink(path)
  head, _, code = pictures.data_uri(path).partition(',')
  assert head == 'data:image/png;base64'
  assert base64.b64decode(code) == path.read_bytes()


def test_what_is_no_picture_is_refused():
  with pytest.raises(ValueError, match='not a picture'):
    pictures.shrunken(b'text')


def test_thin_lines_keep_their_colors_and_paper_stays_white():
  colors = ('#0072b2', '#009e73', '#56b4e9', '#d55e00', '#e69f00', '#cc79a7')
  figure = Figure(figsize=(14, 4))
  axis = figure.subplots()
  for place, color in enumerate(colors):
    steps = np.arange(5)
    axis.plot(steps, place + steps, 'o-', ms=4, color=color)
    axis.fill_between(steps, place, place + steps, color=color, alpha=0.15)
  out = io.BytesIO()
  figure.savefig(out, dpi=130)
  image = Image.open(io.BytesIO(pictures.shrunken(out.getvalue())))
  found = np.array(image.convert('RGB'), int).reshape(-1, 3)
  assert (found[0] == 255).all()
  for color in colors:
    wanted = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
    assert np.abs(found - wanted).max(axis=1).min() <= 16, color
