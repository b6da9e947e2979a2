"""What the loop watches."""

from nfnets import monitor


def test_the_meter_averages_between_logs_and_counts_skipped_steps():
  class Config:
    log_every, num_steps, batch_size, observe_every = 2, 4, 8, 0
    stop_after_nonfinite = 2

  meter = monitor.Meter(Config, 0)
  for step, (loss, bad) in enumerate([(1, 0), (3, 0), (5, 1), (7, 1)], 1):
    meter.add(step, {'loss': loss, 'learning_rate': step, 'nonfinite': bad})
  rows = list(meter.due())
  assert [step for step, _ in rows] == [2, 4]
  assert [row['train/loss'] for _, row in rows] == [2, 6]
  assert [row['train/learning_rate'] for _, row in rows] == [2, 4]
  assert [row['train/nonfinite'] for _, row in rows] == [0, 2]
  assert meter.nonfinite_in_a_row == 2 and meter.diverged_at == 4


def test_a_good_step_behind_the_bad_one_does_not_hide_it():
  class Config:
    log_every, num_steps, batch_size, observe_every = 2, 4, 8, 0
    stop_after_nonfinite = 1

  meter = monitor.Meter(Config, 0)
  for step, bad in enumerate([0, 1, 0], 1):
    meter.add(step, {'loss': 1, 'learning_rate': 1, 'nonfinite': bad})
  assert meter.diverged_at == 2
