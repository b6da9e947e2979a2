"""The example runs as a reader would run it, and its network learns."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_the_example_prints_a_falling_loss():
  run = subprocess.run(
    [sys.executable, 'examples/agc_any_optimizer.py'],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert run.returncode == 0, run.stderr
  losses = [float(x) for x in re.findall(r'loss (\d+\.\d+)', run.stdout)]
  assert len(losses) == 6
  assert losses == sorted(losses, reverse=True)
  assert losses[-1] < losses[0] / 4
