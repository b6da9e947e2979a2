"""Writes results/NAME/README.md and its plots from the committed records.

  python -m scripts.report [--experiment=NAME]

Exit codes: 0 written, 2 refused.
"""

import importlib
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

from nfnets import records, results

EXPERIMENT = flags.DEFINE_string(
  'experiment', None, 'A file in experiments/; default: each with records.'
)
RESULTS = flags.DEFINE_string('results', 'results', 'Where records are.')

REFUSED = 2


def main(argv: Sequence[str]) -> int:
  del argv
  root = pathlib.Path(RESULTS.value)
  names = sorted(p.stem for p in pathlib.Path('experiments').glob('[!_]*.py'))
  if EXPERIMENT.value and EXPERIMENT.value not in names:
    print(
      f'error: --experiment={EXPERIMENT.value}: choose one of '
      f'{", ".join(names)}',
      file=sys.stderr,
    )
    return REFUSED
  for name in [EXPERIMENT.value] if EXPERIMENT.value else names:
    found = records.read_all(root, name)
    if found:
      module = importlib.import_module(f'experiments.{name}')
      body = module.report(found, root / name)
      text = page(module, found, body)
      results.write_atomically(root / name / 'README.md', text)
      print(f'{root / name / "README.md"}: {len(found)} records')
    elif EXPERIMENT.value:
      print(f'error: {root / name} holds no records', file=sys.stderr)
      return REFUSED
  return 0


def page(module: Any, found: Sequence[Mapping[str, Any]], body: str) -> str:
  """The report with its claim, hardware and commands."""
  machines = sorted(
    {
      f'{r["hardware"]["device_count"]} x {r["hardware"]["device"]} '
      f'({r["hardware"]["cpu"]}, {r["hardware"]["cores"]} cores), '
      f'jax {r["versions"]["jax"]}'
      for r in found
    }
  )
  commands = '\n'.join(record['command'] for record in found)
  return (
    f'# {module.TITLE}\n\n{module.CLAIM}\n\n{body}\n\n'
    f'Seeds: {sorted({r["seed"] for r in found})}. '
    f'Hardware: {"; ".join(machines)}.\n\n'
    f'```\n{commands}\n```\n\n{module.__doc__.strip()}\n'
  )


if __name__ == '__main__':
  app.run(main)
