"""Markdown of what `counts` and `rules` find."""

from collections.abc import Iterable, Mapping, Sequence

from nfnets import variants
from nfnets.analysis import counts

# Parameters in millions and multiply-adds in billions at the evaluation size,
# with one more decimal where the source prints it. F0 to F6: paper A, Tables 1
# and 3. The rest was computed with the released code (its widths and its
# formula, which halves odd sides to fractions).
PUBLISHED = {
  'nfnet_f0': (71.5, 12.38),
  'nfnet_f1': (132.6, 35.54),
  'nfnet_f2': (193.8, 62.59),
  'nfnet_f3': (254.9, 114.76),
  'nfnet_f4': (316.1, 215.24),
  'nfnet_f5': (377.2, 289.76),
  'nfnet_f6': (438.4, 377.28),
}
RELEASED = {
  'nfnet_f7': (499.50, 478.78),
  'nfnet_f0_plus': (118.82, 19.52),
  'nfnet_f1_plus': (220.36, 55.45),
  'nfnet_f2_plus': (321.89, 97.28),
  'nfnet_f3_plus': (423.42, 177.99),
  'nfnet_f4_plus': (524.95, 333.39),
  'nfnet_f5_plus': (626.49, 448.43),
  'nfnet_f6_plus': (728.02, 583.52),
  'nfnet_f7_plus': (829.55, 740.16),
  'nf_regnet_b0': (8.60, 0.444),
  'nf_regnet_b1': (10.02, 0.734),
  'nf_regnet_b2': (13.79, 1.099),
  'nf_regnet_b3': (18.14, 1.999),
  'nf_regnet_b4': (29.32, 4.467),
  'nf_regnet_b5': (48.71, 10.56),
  'nf_regnet_b6': (70.05, 19.69),
  'nf_regnet_b7': (101.74, 37.45),
  'nf_regnet_b8': (142.31, 63.72),
  'nf_resnet_50': (25.56, 4.09),
  'nf_resnet_101': (44.55, 7.80),
  'nf_resnet_152': (60.19, 11.51),
  'nf_resnet_200': (64.67, 15.01),
  'nf_resnet_288': (146.46, 21.56),
  'nf_resnet_600': (300.65, 44.27),
  'resnet_50': (25.55, 4.09),
  'resnet_101': (44.54, 7.80),
  'resnet_152': (60.19, 11.51),
  'resnet_200': (64.67, 15.01),
  'resnet_288': (146.45, 21.56),
  'resnet_600': (300.64, 44.27),
}


def of_parts(name: str, image_size: int, parts: Sequence[counts.Part]) -> str:
  """A network stage by stage."""
  rows = [
    (
      part.name,
      part.blocks or '',
      ' x '.join(map(str, part.output)),
      f'{part.params:,}',
      f'{part.macs / 1e9:.3f} G',
    )
    for part in parts
  ]
  params = sum(part.params for part in parts)
  macs = sum(part.macs for part in parts)
  rows.append(('total', '', '', f'{params:,}', f'{macs / 1e9:.3f} G'))
  header = ('part', 'blocks', 'output', 'parameters', 'multiply-adds')
  title = f'{name} at {image_size} x {image_size} pixels'
  return f'{title}\n\n{markdown(header, rows)}'


def of_family(golden: Mapping[str, float]) -> str:
  """Every network, one row each.

  Args:
    golden: name to the relative difference of its logits from the published
      reference's, where one was measured.
  """
  header = (
    'model',
    'parameters, M',
    'multiply-adds, G (px), training',
    'evaluation',
    'by the published formula',
    'published: M / G',
    'golden difference',
  )
  rows = []
  for name, row in variants.ALL.items():
    train, evaluation = row['train_image_size'], row['eval_image_size']
    parts = counts.parts(name, evaluation)
    macs = sum(part.macs for part in parts)
    train_macs = macs
    if train != evaluation:
      train_macs = counts.multiply_adds(name, train)
    paper, code = PUBLISHED.get(name), RELEASED.get(name)
    source = '' if paper else ' (code)'
    figure = paper or code
    rows.append(
      (
        name,
        f'{sum(part.params for part in parts) / 1e6:.2f}',
        f'{train_macs / 1e9:.3f} ({train})',
        f'{macs / 1e9:.3f} ({evaluation})',
        f'{sum(part.published_macs for part in parts) / 1e9:.3f}',
        f'{figure[0]} / {figure[1]}{source}' if figure else '',
        f'{golden[name]:.1e}' if name in golden else '',
      )
    )
  return markdown(header, rows)


def markdown(header: Sequence[str], rows: Iterable[Sequence]) -> str:
  """A table whose columns line up as plain text too."""
  cells = [list(map(str, row)) for row in (header, *rows)]
  widths = [max(map(len, column)) for column in zip(*cells)]
  lines = [
    '| ' + ' | '.join(cell.ljust(w) for cell, w in zip(row, widths)) + ' |'
    for row in cells
  ]
  lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  return '\n'.join(lines) + '\n'
