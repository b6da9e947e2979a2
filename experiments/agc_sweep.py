r"""AGC over batch sizes and lambdas, with and without scaled weights. CIFAR-10.

  python -m scripts.sweep --experiment=agc_sweep [--scale=cpu] -- \
    --config.data.data_dir=DATA
  python -m scripts.report --experiment=agc_sweep

Rows 'nf_…' are of the normalizer-free ResNet-20: pre-activation blocks, with a
convolution on the shortcut of a transition. Rows 'none_…' are of He's: blocks
that end in the activation, biases in the place of normalization. All arms:
learning rate 0.1 x batch / 128 after a linear warm-up over 5 % of the steps,
cosine to 0, Nesterov momentum 0.9, weight decay 5e-4 on weights. Correlation
and importance are of the hyperparameters' logarithms for test top-1; a diverged
run counts as chance, 10 %. A lambda is among the best unless it is worse by
more than seeds explain, 4.5 points of single runs (ResNet-20's at scale cpu).
Whether a factor correlates is told by its partial correlation, with the other
factor's linear part removed; under 0.5 it may be chance.

Scale cpu tries batches of 16 to 128, the others 128 to 1024: they share 128.

Normalizer-free, a short run ends before its residual branches open. A skip gain
starts at 0, and AGC bounds how fast it grows: in scale cpu's 13 epochs to about
0.06 at most with lambda 0.01; with 0.04, two fifths of the learning rates' sum
pass before it can reach 1. What a small lambda is worth in a longer run can't
be seen there.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from ml_collections import ConfigDict

from experiments import _cifar, _compare, _influence, _plots, _study
from nfnets.analysis import tables

TITLE = 'AGC: batch size and lambda'
CLAIM = (
  'With AGC, test accuracy correlates negatively with the batch size and '
  'positively with lambda; the batch size matters more; small batches want a '
  'bigger lambda; and 0.01 is too tight, as the report suspected.'
)
PAPER = {}  # the report shows signs and an order, which `CLAIM` quotes
SEEDS = (0,)
NETWORKS = {'nf': 'normalizer-free', 'none': 'no normalization'}
LAMBDAS = (0.01, 0.04, 0.16, 0.64)
BATCH_SIZES = {
  'full': (128, 256, 512, 1024),
  'short': (128, 256, 512, 1024),
  'cpu': (16, 32, 64, 128),  # 13 epochs of a larger one can't judge AGC
}
RUNS = {
  f'{network}_b{size}_l{lambda_:g}': {
    'model.normalizer': network,
    'batch_size': size,
    'optimizer.clipping': lambda_,
  }
  for network in NETWORKS
  for size in sorted({size for sizes in BATCH_SIZES.values() for size in sizes})
  for lambda_ in LAMBDAS
}
LABELS = {
  f'{network}_b{size}_l{lambda_:g}': f'{name}, batch {size}, lambda {lambda_:g}'
  for network, name in NETWORKS.items()
  for sizes in BATCH_SIZES.values()
  for size in sizes
  for lambda_ in LAMBDAS
}
SCALES = _cifar.scales(own_batch=True)
for _scale, _sizes in BATCH_SIZES.items():
  SCALES[_scale]['rows'] = tuple(
    f'{network}_b{size}_l{lambda_:g}'
    for network in NETWORKS
    for size in _sizes
    for lambda_ in LAMBDAS
  )


def get_config(run: str) -> ConfigDict:
  """One network, batch and lambda, for 100 epochs or less: see `SCALES`."""
  config = _cifar.resnet20()
  config.optimizer.clip = 'agc'
  return _study.configure(config, RUNS, SCALES, run)


def report(records: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> str:
  """Draws heat maps and parallel coordinates; returns the markdown."""

  def section(found: Sequence, note: str, suffix: str) -> str:
    rows, parts = _study.gather(found), []
    networks = [n for n in NETWORKS if any(r.startswith(n + '_') for r in rows)]
    heat = _plots.figure(5.2 * len(networks), 4.4, f'{TITLE}: test top-1', note)
    lines = _plots.figure(5.2 * len(networks), 4.0, TITLE, note)
    places = zip(
      networks,
      heat.subplots(1, len(networks), squeeze=False)[0],
      lines.subplots(1, len(networks), squeeze=False)[0],
    )
    for network, heat_ax, lines_ax in places:
      points = grid(rows, network)
      _heat_map(heat_ax, points)
      heat_ax.set_title(NETWORKS[network], fontsize=10)
      _parallel(lines_ax, points)
      lines_ax.set_title(NETWORKS[network], fontsize=10)
      parts.append(_statistics(points, network))
    for name, made in (('heat_map', heat), ('parallel', lines)):
      caption = f'{TITLE} ({name}): {note}'
      parts.append(_plots.save(made, folder, name + suffix, caption))
    return '\n\n'.join(
      [*parts, _plots.table(found, _study.runs_of(found, RUNS, SCALES), LABELS)]
    )

  return _cifar.with_source(_plots.sections(records, SCALES, section))


def verdict(records: Sequence[Mapping[str, Any]]) -> _study.Judgement:
  """Each claim of the report, for each network whose 4 x 4 runs are there."""

  def of_scale(rows: Mapping[str, _study.Row]) -> _study.Judgement:
    findings, why_short = {}, ''
    for network, name in NETWORKS.items():
      points = grid(rows, network)
      if len(points) == 16:
        told = claims(points, network)
        findings |= {f'{name}: {what}': ok for what, ok in told.items()}
        if 'too short to tell' in told.values():
          why_short = (
            f' Too short: with lambda {min(LAMBDAS):g} a skip gain ends at '
            f'about {_limit(points):.2f} at most, its residual branch shut.'
          )
    if not findings:
      return 'not run', 'no network has its 4 x 4 records yet.'
    word, why = _study.weigh(findings)
    return word, why + why_short

  return _study.judge(records, SCALES, of_scale)


def grid(
  rows: Mapping[str, _study.Row], network: str
) -> dict[tuple[int, float], _study.Row]:
  """(batch size, lambda) to its runs, of those that there are."""
  return {
    (RUNS[name]['batch_size'], RUNS[name]['optimizer.clipping']): row
    for name, row in rows.items()
    if name.startswith(f'{network}_b')
  }


def claims(
  points: Mapping[tuple[int, float], _study.Row], network: str
) -> dict[str, bool | str]:
  """What the report found, and whether these runs find it, see `weigh`."""
  (_, of_batch), (_, of_lambda) = _influence.of(points)
  batch, lambda_ = _influence.partial_correlations(points)
  best = best_lambdas(points)
  wanted = '; '.join(
    f'{_compare.either(values)} at {size}' for size, values in best.items()
  )
  if all(max(LAMBDAS) in values for values in best.values()):
    wanted += f'; {max(LAMBDAS):g} is the largest tried'
  found = {
    f'lambda correlates positively (partial {lambda_:+.2f})': (
      _compare.positive(lambda_, len(points))
    ),
    f'batch size matters more (importance {of_batch:.2f} against '
    f'{of_lambda:.2f})': of_batch > of_lambda,
    'lambda 0.01 is too tight: a bigger one is better at every batch': (
      _too_tight(best)
    ),
  }
  if network == 'nf' and _limit(points) < 1:
    found = dict.fromkeys(found, 'too short to tell')
  return {
    f'batch size correlates negatively (partial {batch:+.2f})': (
      _compare.positive(-batch, len(points))
    ),
    **found,
    f'small batches want a bigger lambda (best: {wanted})': _compare.falls(
      best, LAMBDAS
    ),
  }


def _limit(points: Mapping[tuple[int, float], _study.Row]) -> float:
  """What skip gains reach at most with the smallest lambda."""
  images = max(row.images for row in points.values())
  return _cifar.gain_limit(images, min(LAMBDAS))


def _too_tight(best: Mapping[int, Sequence[float]]) -> bool | str:
  """Whether the smallest lambda is beaten at every batch; no if it wins one."""
  tight = min(LAMBDAS)
  if [tight] in best.values():
    return False
  among = any(tight in values for values in best.values())
  return 'undecided' if among else True


def best_lambdas(
  points: Mapping[tuple[int, float], _study.Row],
) -> dict[int, list[float]]:
  """The best lambdas of each batch size: more than one if seeds may decide."""
  return {
    size: _compare.contenders(
      {lambda_: row for (s, lambda_), row in points.items() if s == size}
    )
    for size in sorted({size for size, _ in points})
  }


def _statistics(
  points: Mapping[tuple[int, float], _study.Row], network: str
) -> str:
  name = NETWORKS[network]
  if len(points) < 16:
    return f'**{name}**: {len(points)} of 16 runs, too few for statistics.'
  names = ('batch size', 'lambda')
  rows = [
    (what, f'{correlation:+.2f}', f'{importance:.2f}')
    for what, (correlation, importance) in zip(names, _influence.of(points))
  ]
  table = tables.markdown(('', 'correlation', 'importance'), rows)
  told = '\n'.join(
    f'- {what}: {_study.weigh({what: holds})[0]}'
    for what, holds in claims(points, network).items()
  )
  return f'**{name}**\n\n{table}\n{told}'


def _heat_map(ax: Axes, points: Mapping[tuple[int, float], _study.Row]) -> None:
  sizes = sorted({size for size, _ in points})
  values = np.full((len(LAMBDAS), len(sizes)), np.nan)
  texts = {}
  for (size, lambda_), row in points.items():
    place = LAMBDAS.index(lambda_), sizes.index(size)
    values[place] = row.worth
    texts[place] = f'{row.mean:.1f}' if not row.diverged else 'diverged'
  image = ax.imshow(values, origin='lower', cmap='viridis', aspect='auto')
  middle = (np.nanmin(values) + np.nanmax(values)) / 2
  for (y, x), text in texts.items():
    color = 'black' if values[y, x] > middle else 'white'
    ax.text(x, y, text, ha='center', va='center', color=color)
  ax.set_xticks(range(len(sizes)), sizes)
  ax.set_yticks(range(len(LAMBDAS)), [f'{value:g}' for value in LAMBDAS])
  ax.set_xlabel('batch size')
  ax.set_ylabel('lambda')
  ax.figure.colorbar(image, ax=ax, label='test top-1 (%)')


def _parallel(ax: Axes, points: Mapping[tuple[int, float], _study.Row]) -> None:
  import matplotlib

  worth = np.array([row.worth for row in points.values()])
  low, high = worth.min(), max(worth.max(), worth.min() + 1)
  sizes = np.log2([size for size, _ in points])
  lambdas = np.log2([lambda_ for _, lambda_ in points])
  shares = np.column_stack(
    [_share(sizes), _share(lambdas), (worth - low) / (high - low)]
  )
  for line in shares[np.argsort(worth)]:
    color = matplotlib.colormaps['viridis'](line[2])
    ax.plot(range(3), line, color=color, lw=1.8, alpha=0.9)
  ticks = (
    dict(zip(_share(sizes), [str(size) for size, _ in points])),
    dict(zip(_share(lambdas), [f'{lambda_:g}' for _, lambda_ in points])),
    {share: f'{low + share * (high - low):.1f}' for share in (0, 0.5, 1)},
  )
  box = {'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.8, 'pad': 1}
  for x, marks in enumerate(ticks):
    ax.axvline(x, color='0.3', lw=1)
    for y, text in marks.items():
      ax.text(x + 0.04, y, text, va='center', fontsize=9, zorder=9, bbox=box)
  ax.set_xticks(range(3), ('batch size', 'lambda', 'test top-1 (%)'))
  ax.set_xlim(-0.1, 2.35)
  ax.set_ylim(-0.05, 1.05)
  ax.set_yticks([])
  ax.spines[:].set_visible(False)


def _share(values: np.ndarray) -> np.ndarray:
  """0 for the least, 1 for the greatest."""
  return (values - values.min()) / max(np.ptp(values), 1e-9)
