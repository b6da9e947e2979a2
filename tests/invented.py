"""Records of runs that nobody made."""

from experiments import _study


def finished(row, seed, top_1, updates=2000, scale='full', status='finished'):
  summary = {'status': status, 'step': updates, 'eval/top_1': top_1}
  return {
    'row': row,
    'seed': seed,
    'scale': scale,
    'status': status,
    'updates': updates,
    'config': {'num_steps': updates, 'batch_size': 128},
    'summary': summary,
    'curve': [],
  }


def synthetic(module, scale='cpu', accuracy=None, seeds=None):
  """A record of every row and seed, its accuracy by `accuracy(row, seed)`."""
  records = []
  for seed in module.SEEDS if seeds is None else seeds:
    for row in _study.rows_of(scale, module.RUNS, module.SCALES):
      top_1 = accuracy(row, seed) if accuracy else 0.6 + seed / 100
      status = 'finished' if top_1 else 'diverged'
      record = finished(row, seed, top_1, 2000, scale, status)
      record['curve'] = [
        {
          'step': step,
          'train/loss': 2 - step / 1000,
          'eval/top_1': (top_1 or 0.1) * step / 2000,
          'agc/clipped_fraction': 0.5,
        }
        for step in (500, 1000, 1500, 2000)
      ]
      records.append(record)
  return records
