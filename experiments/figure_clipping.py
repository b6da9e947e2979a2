"""AGC's threshold against batch size (paper A, Figure 2b).

NF-ResNet-50 for 90 epochs, with learning rate 0.1 x batch / 256, 5 epochs of
warm-up and cosine decay to 0. The figure's numbers weren't available, so the
checks are what the paper's text says about it.
"""

from configs import nf_resnet_50_agc
from experiments import _figures, _papers
from experiments.study import Experiment, Rows

BATCHES = (256, 512, 1024, 2048, 4096)
CLIPPINGS = (0.01, 0.02, 0.04, 0.08, 0.16)
ROWS = {
  f'bs{batch}_clip{clipping}': {
    'batch_size': batch,
    'optimizer.clipping': clipping,
  }
  for batch in BATCHES
  for clipping in CLIPPINGS
}
EXPERIMENT = Experiment(
  title="AGC's threshold and the batch size (paper A's Figure 2b)",
  claim='The larger the batch, the smaller lambda must be: at batch 4,096 it '
  'takes 0.01, while smaller batches train with any lambda up to 0.16.',
  rows=ROWS,
  checks={
    'at batch 4,096 the best lambda is 0.01': lambda r: best(r, 4096) == 0.01,
    'at batch 256 it is larger': lambda r: best(r, 256) > best(r, 4096),
    'at batch 1,024 no lambda up to 0.16 diverges': lambda r: (
      not any(r[f'bs1024_clip{c}'].diverged for c in CLIPPINGS)
    ),
  },
  scales=_papers.scales(
    [row for row in ROWS if row.startswith(('bs1024', 'bs4096'))], clipping=16
  ),
  labels={f'bs{batch}': f'batch {batch:,}' for batch in BATCHES},
  seeds=range(5),
  config=lambda row: nf_resnet_50_agc.get_config(),
  plot=_figures.lines('lambda, as at full size', r'_clip([\d.]+)'),
)
get_config = EXPERIMENT.get_config


def best(rows: Rows, batch: int) -> float:
  """The best lambda at a batch size, of those that didn't diverge."""
  there = {c: rows[f'bs{batch}_clip{c}'] for c in CLIPPINGS}
  done = {c: row.mean for c, row in there.items() if not row.diverged}
  return max(done, key=done.get, default=0.0)
