"""NFNet-F0 to F6 on ImageNet (paper A, Table 3 and Figure 1).

360 epochs at batch 4,096 with learning rate 1.6 and lambda 0.01:
configs/nfnet_f0.py and its siblings; F5 also with SAM, F6 only with it. The
accuracy is that of the averaged parameters. Published are the top-1 accuracy,
the time of a training step on TPUv3 with 32 images a core and on a V100, and
multiply-adds (those of NFNets are in table_family). The [T] rows are the
published weights, evaluated by timm at their evaluation sizes. Time is measured
by figure_latency. Networks of other code bases, from EfficientNet to DeiT, are
not trained here.
"""

import re

from configs import nfnet_f0
from experiments import _figures, _papers
from experiments._published import STEP_MS, TABLE_3, step_times
from experiments.study import Experiment

SAM = {'sam.rho': 0.05, 'sam.ascent_fraction': 0.2}  # A.5, A.4
ROWS = {f'f{k}': {'model.name': f'nfnet_f{k}'} for k in range(6)} | {
  f'f{k}_sam': {'model.name': f'nfnet_f{k}', **SAM} for k in (5, 6)
}
TIMM = (83.468, 84.700, 85.184, 85.676, 85.838, 86.102, 86.364)
EXPERIMENT = Experiment(
  title="NFNets on ImageNet (paper A's Table 3 and Figure 1)",
  claim='NFNets reach from 83.6 % [P] (F0) to 86.5 % [P] (F6 with SAM) top-1 '
  'on ImageNet without extra data.',
  rows=ROWS,
  checks={
    f'{row} is within half a point of {TABLE_3[row][0]}': (
      lambda rows, row=row: (
        not rows[row].diverged and abs(rows[row].mean - TABLE_3[row][0]) <= 0.5
      )
    )
    for row in ROWS
  },
  published={
    name: (top_1, 'P', step_times(name), work)
    for name, (top_1, _, _, work) in TABLE_3.items()
  }
  | {f'F{k}, published weights': (top_1, 'T') for k, top_1 in enumerate(TIMM)},
  scales=_papers.scales(('f0', 'f1'), width=8, depth=2, clipping=16),
  seeds=(0, 1, 2),
  config=lambda row: nfnet_f0.get_config(),
  labels={'f': 'NFNet'},
  plot=_figures.lines(
    'ms a training step on TPUv3 (published)',
    lambda name: (
      (STEP_MS[name], re.match('[A-Za-z]+', name)[0])
      if name in STEP_MS
      else None
    ),
  ),
)
get_config = EXPERIMENT.get_config
