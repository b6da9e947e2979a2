"""Writes each experiment's report, and the page of them all, from records.

  python -m scripts.report [--experiment=NAME]

Without a name: results/NAME/README.md and plots for every experiment, and
results/index.html, one file that holds everything. It reads results/NAME/runs/
and nothing else that was measured. Exit codes: 0 written, 2 refused.
"""

import importlib
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from experiments import _compare, _papers
from nfnets import records, workdir
from nfnets.pages import facts, page, pictures

EXPERIMENT = flags.DEFINE_string(
  'experiment', None, 'A file in experiments/; default: all, and the page.'
)
RESULTS = flags.DEFINE_string('results', 'results', 'Where records are.')

REFUSED = 2
TITLE = 'Normalizer-free networks: what was claimed and what was found'
LEAD = (
  'Each experiment is a claim, a verdict and what it rests on. Every number of '
  'ours comes from a record in `results/NAME/runs/`, with its configuration '
  'and hardware; published ones stand beside it with a tag that says how far '
  'to trust them. A run that diverged is shown as such, and is in no mean. '
  'Scaled-down runs say so and decide nothing about ImageNet. Times of CPU '
  'runs come from machines that were shared with other work. Paper A is arXiv '
  '2102.06171, paper B arXiv 2101.08692.'
)
MEANINGS = {
  'borne out': 'the records show every part of the claim',
  'mixed': 'some parts',
  'not borne out': 'none',
  'undecided': (
    "some part can't be told: its numbers lie closer together than seeds or "
    'repeats explain, the best lies at an end of what was tried, or a run is '
    'too short'
  ),
  'too short to tell': (
    'a run made too few updates for clipping to show (it takes about 1,000 '
    'until the skip gains have grown), or two times are within their spread'
  ),
  'not run': 'records that the claim needs are missing, or are scaled down',
}
KEY = (
  'Verdicts: '
  + '; '.join(f'**{word}**, {what}' for word, what in MEANINGS.items())
  + '. Beside each is what it rests on: the scale and, for trained networks, '
  'the seeds a row. What seeds explain is two standard errors, of single runs '
  f'{_compare.ONE_RUN:.1f} points. {_compare.BORROWED} `full` is the '
  'size that the claim is about; `cpu` is cut down to what two processor cores '
  'can do, and the section says how.'
)
PARTS = {
  'The papers': (
    'signal_propagation', 'table_family', 'table_imagenet', 'figure_latency',
    'table_ablation', 'figure_batch_size', 'figure_clipping',
    'section_where_to_clip', 'table_depth', 'table_small_batch',
    'sam_imagenet',
  ),
  'The CIFAR-10 study': (
    'cifar10_first_runs', 'resnet20_three_ways', 'batchnorm_batch_size',
    'clipping_threshold', 'agc_sweep', 'where_to_clip', 'learning_rate',
    'sam_cifar', 'batchnorm_costs', 'nf_resnet50_vs_resnet50', 'he_resnet20',
  ),
}  # fmt: skip
BESIDES = 'Besides'


def main(argv: Sequence[str]) -> int:
  names = sorted(p.stem for p in pathlib.Path('experiments').glob('[!_]*.py'))
  root = pathlib.Path(RESULTS.value)
  try:
    if len(argv) > 1:
      raise ValueError(f'unexpected argument {argv[1]!r}; flags start with --')
    if EXPERIMENT.value:
      write_one(EXPERIMENT.value, names, root)
    else:
      write_all(names, root)
  except (ValueError, OSError) as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    return REFUSED
  return 0


def write_one(name: str, names: Sequence[str], root: pathlib.Path) -> None:
  """Writes one experiment's README.md and plots."""
  if name not in names:
    raise ValueError(f'--experiment={name}: choose one of {", ".join(names)}')
  if not records.read_all(root, name):
    raise ValueError(f'{root / name} holds no records')
  section_of(name, root)
  print(root / name / 'README.md')


def write_all(names: Sequence[str], root: pathlib.Path) -> None:
  """Writes every README.md and the page."""
  parts = {
    part: [section_of(name, root) for name in members if name in names]
    for part, members in PARTS.items()
  }
  known = {name for members in PARTS.values() for name in members}
  rest = [name for name in names if name not in known]
  parts[BESIDES] = [section_of(name, root) for name in rest]
  lead = f'{LEAD}\n\n{KEY}'
  text = page.of(TITLE, lead, parts, _papers.OUT_OF_REACH, root)
  workdir.write_atomically(root / 'index.html', text)
  print(f'{root / "index.html"}: {len(names)} experiments, {len(text):,} bytes')


def section_of(name: str, root: pathlib.Path) -> page.Section:
  """Reports one experiment; writes its README.md and its plots."""
  module = importlib.import_module(f'experiments.{name}')
  found = records.read_all(root, name)
  folder = root / name
  body = 'No record is committed yet.'
  # What has a cost reports its published numbers before it is run, too.
  has_report = bool(found) or hasattr(module, 'cost')
  if has_report:
    folder.mkdir(parents=True, exist_ok=True)
    body = module.report(found, folder)
  for path in sorted(folder.glob('*.png')):
    pictures.shrink(path)
  verdict = module.verdict(found)
  section = page.Section(
    name=name,
    title=module.TITLE,
    claim=module.CLAIM,
    verdict=verdict,
    body=body,
    facts=facts_of(module, found),
    commands=facts.commands(name, module, found),
    note=facts.note(module),
    basis=facts.basis(module, found, verdict),
  )
  if has_report:
    workdir.write_atomically(folder / 'README.md', page.as_markdown(section))
  return section


def facts_of(module: Any, found: Sequence[Any]) -> list[str]:
  """Seeds, hardware and cost, as far as there are any."""
  told = []
  if found:
    seeds = ', '.join(map(str, sorted({r['seed'] for r in found})))
    told.append(
      f'Seeds: {seeds}. Hardware: {"; ".join(facts.hardware(found))}.'
    )
  if by_epoch := facts.by_epoch(found):
    told[-1] += f' {by_epoch}'
  if cost := facts.cost(module, found):
    told.append(f'Cost: {cost}')
  return told


if __name__ == '__main__':
  app.run(main)
