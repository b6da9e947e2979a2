"""Plots small enough to commit: fewer colors, nothing but pixels."""

import base64
import io
import pathlib

COLORS = 256
MAX_WIDTH = 1100  # pixels


def shrink(path: pathlib.Path) -> None:
  """Rewrites a PNG with a palette and without metadata."""
  path.write_bytes(shrunken(path.read_bytes()))


def shrunken(png: bytes) -> bytes:
  """The same picture with at most `COLORS` colors, no wider than a page.

  Raises:
    ValueError: it isn't a picture.
  """
  from PIL import Image, UnidentifiedImageError

  try:
    image = Image.open(io.BytesIO(png))
  except UnidentifiedImageError:
    raise ValueError('not a picture') from None
  if image.mode == 'P' and image.width <= MAX_WIDTH and not image.text:
    return png  # shrunken already
  white = Image.new('RGB', image.size, 'white')
  white.paste(image, mask=image.getchannel('A') if 'A' in image.mode else None)
  if white.width > MAX_WIDTH:
    height = round(white.height * MAX_WIDTH / white.width)
    white = white.resize((MAX_WIDTH, height), Image.Resampling.LANCZOS)
  # A median cut would merge the colors of thin lines, which have few pixels.
  few = white.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=0)
  out = io.BytesIO()
  few.save(out, 'PNG', optimize=True)
  return out.getvalue()


def data_uri(path: pathlib.Path) -> str:
  """A PNG as what an `img` can show without asking for a file."""
  return 'data:image/png;base64,' + base64.b64encode(path.read_bytes()).decode()
