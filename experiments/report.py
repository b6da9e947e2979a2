"""The report of an experiment, and of all of them, from committed records."""

import base64
import importlib
import io
import math
import pathlib
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tabulate

from experiments import records, study
from nfnets import workdir

TRUST = {
  'P': "paper's text or table",
  'C': 'released code',
  'K': 'computed with the released code',
  'D': "digitised from the paper's figure",
  'R': "another paper's text or table",
  'S': 'second hand: public notes on the paper',
  'M': 'from memory, not verified: never a criterion',
  'T': 'timm',
}
ANSWERS = {True: 'holds', False: "doesn't hold", None: 'undecided'}
NOT_RUN = 'not run'
COLORS = 256  # of a committed plot
LEAD = """# Results

{note}

Every number of ours comes from a record in `NAME/runs/` with its config and
hardware. A run that diverged counts as diverged and is in no mean. A check on
trained rows holds, or doesn't, where the difference paired by seed lies outside
its 95 % interval; otherwise it is undecided. Paper A is arXiv 2102.06171, paper
B arXiv 2101.08692.

"""


def write(name: str, root: pathlib.Path) -> pathlib.Path:
  """Writes an experiment's README.md and plot.png into `root`/name."""
  experiment, folder = study.load(name), root / name
  recorded = records.read_all(root, name)
  found = experiment.gather(recorded)
  folder.mkdir(parents=True, exist_ok=True)
  figure = experiment.plot(experiment, found) if experiment.plot else None
  if figure:
    save(figure, folder / 'plot.png')
  note = folder / 'note.md'
  module = importlib.import_module(f'experiments.{name}')
  parts = (
    f'# {experiment.title}\n\n{experiment.claim}',
    checks(experiment, found),
    table(experiment, found),
    f'![{experiment.title}](plot.png)' if figure else '',
    note.read_text().strip() if note.exists() else '',
    module.__doc__.partition('\n')[2].strip(),
    origin(recorded),
    commands(name, experiment, found),
    not_run(name, experiment, found),
  )
  text = '\n\n'.join(part for part in parts if part)
  workdir.write_atomically(folder / 'README.md', text + '\n')
  return folder / 'README.md'


def checks(
  experiment: study.Experiment, found: Mapping[str, study.Rows]
) -> str:
  """The checks as a list; those that weren't planned apart."""
  planned = [_line(*check, found, experiment) for check in experiment.checks]
  explored = [_line(*check, found, experiment) for check in experiment.explored]
  if explored:
    explored.insert(0, '\nExploratory, not planned before the runs:\n')
  return '\n'.join(planned + explored)


def _line(sentence: str, check: study.Check, *where: Any) -> str:
  word, scale, rows = answer(check, *where)
  told = [scale] if scale and scale != study.FULL else []
  if rows is not None and hasattr(check, 'told'):
    told.append(check.told(rows))
  numbers = f' ({"; ".join(told)})' if told else ''
  return f'- **{word}**: {sentence}{numbers}'


def answer(
  check: study.Check,
  found: Mapping[str, study.Rows],
  experiment: study.Experiment,
) -> tuple[str, str, study.Rows | None]:
  """What a check says at the fullest scale that has its rows, and which."""
  for scale, rows in found.items():
    if experiment.scales[scale].smoke:
      continue
    try:
      return ANSWERS[check(rows)], scale, rows
    except study.NotRun:
      continue
  return NOT_RUN, '', None


def table(experiment: study.Experiment, found: Mapping[str, study.Rows]) -> str:
  """A line for each row that has a record or a published number."""
  of_row = experiment.columns or TRAINED
  published = experiment.published
  header = ['row'] + (['published'] if published else [])
  for scale in found:
    first, *others = of_row
    smoke = ' (smoke test)' if experiment.scales[scale].smoke else ''
    prefix = '' if scale == study.FULL else f'{scale}{smoke}: '
    header += [prefix + first, *others]
  lines = []
  for name in dict.fromkeys((*experiment.rows, *published)):
    mine = [rows.get(name) for rows in found.values()]
    if name not in published and not any(mine):
      continue
    label = experiment.labels.get(name, '')
    line = [f'`{name}` {label}'.strip() if name in experiment.rows else name]
    line += [shown(published.get(name))] if published else []
    for row in mine:
      line += [cell(row) if row else '–' for cell in of_row.values()]
    lines.append(line)
  if not lines:
    return ''
  right = ['left'] + ['right'] * (len(header) - 1)
  text = tabulate.tabulate(
    lines, header, 'pipe', disable_numparse=True, colalign=right
  )
  tags = sorted({entry[1] for entry in published.values()})
  legend = '; '.join(f'[{tag}] {TRUST[tag]}' for tag in tags)
  notes = [f'Published: {legend}.'] if legend else []
  notes += [
    f'Scale `{scale}`: {experiment.scales[scale].note}.'
    + (' It decides nothing.' if experiment.scales[scale].smoke else '')
    for scale in found
    if experiment.scales[scale].note
  ]
  return f'{text}\n\n{" ".join(notes)}'.strip()


def shown(entry: tuple | None) -> str:
  """A published number as printed, with its tag."""
  return f'{entry[0]} [{entry[1]}]' if entry else '–'


def _runs(row: study.Row) -> str:
  ends = ', '.join(f'{end:,}' for end in row.diverged)
  return f'{len(row.records)}' + (f', diverged after {ends}' if ends else '')


def _loss(row: study.Row) -> str:
  return '–' if math.isnan(row.loss) else f'{row.loss:.3f}'


def _updates(row: study.Row) -> str:
  if row.config['optimizer']['clip'] != 'agc' or math.isinf(row.growth):
    return f'{row.updates:,}'
  digits = 0 if row.growth > 100 else 1
  return f'gain growth {row.growth:,.{digits}f}'


TRAINED = {
  'test top-1, %': lambda row: row.text,
  'runs': _runs,
  'training loss': _loss,
  f'updates, or gain growth ({study.OPEN:.1f} opens)': _updates,
}


def origin(recorded: Sequence[records.Record]) -> str:
  """How many runs, how long they took, and on what."""
  own = [r for r in recorded if 'same_as' not in r]
  seconds = sum(r.get('seconds', 0) + _seconds(r) for r in own)
  versions = {
    f'{at["device_count"]} x {at["device"]} ({at["cpu"]}, {at["cores"]} cores),'
    f' jax {r["versions"]["jax"]}'
    for r in recorded
    if (at := r.get('hardware'))
  }
  taken = sorted({r['same_as'] for r in recorded if 'same_as' in r})
  commits = sorted({r['commit'][:7] for r in recorded if r.get('commit')})
  parts = (
    f'{len(own)} records' if own else '',
    f'{seconds / 3600:.1f} hours' if seconds else '',
    *sorted(versions),
    f'commit {", ".join(commits)}' if commits else '',
    f'taken over from equal runs: {", ".join(taken)}' if taken else '',
  )
  return f'{"; ".join(filter(None, parts))}.' if recorded else ''


def _seconds(record: records.Record) -> float:
  """A run's steps at the median of their logged pace: pauses don't count."""
  points = [p for p in record.get('curve', ()) if 'train/step_seconds' in p]
  if not points:
    return 0.0
  pace = statistics.median(p['train/step_seconds'] for p in points)
  return points[-1]['step'] * pace


def commands(
  name: str, experiment: study.Experiment, scales: Iterable[str]
) -> str:
  """What makes the records anew, and this report."""
  verb = 'measure' if experiment.measure else 'run'
  data = '' if experiment.measure else ' -- --config.data.data_dir=DATA'
  lines = list(experiment.before)
  for scale in scales or [next(iter(experiment.scales))]:
    at = '' if scale == study.FULL else f' --scale={scale}'
    lines.append(
      f'python -m scripts.experiment {verb} --experiment={name}{at}{data}'
    )
  lines.append(f'python -m scripts.experiment report --experiment={name}')
  return '```\n' + '\n'.join(lines) + '\n```'


def not_run(
  name: str, experiment: study.Experiment, found: Mapping[str, study.Rows]
) -> str:
  """Rows of the full scale, or of one that was begun, without a record."""
  first = next(iter(experiment.scales))
  missing = [
    records.run_name(row, scale)
    for scale in experiment.scales
    for row in experiment.rows_at(scale)
    if (scale == first or scale in found) and row not in found.get(scale, ())
  ]
  if not missing:
    return ''
  script = 'experiment measure' if experiment.measure else 'train'
  lines = [
    (
      f'`{run}`',
      experiment.cost(run.partition('@')[0], experiment.get_config(run))
      if experiment.cost
      else '–',
    )
    for run in missing
  ]
  if experiment.measure:
    command = f'--experiment={name} --only=ROW'
  else:
    command = f'--config=experiments/{name}.py:ROW --workdir=runs/ROW'
  return (
    f'<details><summary>Not run: {len(missing)}</summary>\n\n'
    f'`python -m scripts.{script} {command}`\n\n'
    + tabulate.tabulate(lines, ('ROW', 'cost of a seed'), 'github')
    + '\n\n</details>'
  )


def save(figure: Any, path: pathlib.Path) -> None:
  """Writes a plot with a palette: a third of the size."""
  from PIL import Image

  file = io.BytesIO()
  figure.savefig(file, dpi=110)
  image = Image.open(file).convert('RGB')
  # A median cut would merge the colors of thin lines, which have few pixels.
  few = image.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=0)
  few.save(path, optimize=True)


def write_overview(root: pathlib.Path) -> pathlib.Path:
  """Writes `root`/README.md: the note by hand, and all experiments' checks."""
  lines = []
  for name in study.names():
    experiment = study.load(name)
    found = experiment.gather(records.read_all(root, name))
    words = [answer(c, found, experiment)[0] for _, c in experiment.checks]
    told = [
      f'{word}: {words.count(word)}'
      for word in (*ANSWERS.values(), NOT_RUN)
      if word in words
    ]
    title = f'[{experiment.title}]({name}/README.md)'
    lines.append((title, experiment.claim, ', '.join(told)))
  note = root / 'note.md'
  text = LEAD.format(note=note.read_text().strip() if note.exists() else '')
  text += tabulate.tabulate(lines, ('experiment', 'claim', 'checks'), 'github')
  others = sorted(p for p in root.glob('*.md') if p.stem not in OVERVIEW)
  text += '\n\nMeasured besides:\n\n' * bool(others) + '\n'.join(
    f'- [{path.read_text().partition(chr(10))[0].lstrip("# ")}]({path.name})'
    for path in others
  )
  workdir.write_atomically(root / 'README.md', text.strip() + '\n')
  return root / 'README.md'


OVERVIEW = ('README', 'note')
CSS = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  font: 16px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid #ccc; padding: .2rem .6rem; }
img { max-width: 100%; }
pre { overflow-x: auto; background: #f4f4f4; padding: .5rem; }
"""


def write_html(root: pathlib.Path, path: pathlib.Path) -> None:
  """Writes the overview and all reports in `root` as one page."""
  from markdown_it import MarkdownIt

  render = MarkdownIt('commonmark').enable('table').render
  pages = [render((root / 'README.md').read_text())]
  for name in study.names():
    readme = root / name / 'README.md'
    if readme.exists():
      page = _embedded(render(readme.read_text()), readme.parent)
      pages.append(f'<section id="{name}">{page}</section>')
  body = re.sub(r'href="([\w-]+)/README\.md"', r'href="#\1"', '\n'.join(pages))
  workdir.write_atomically(
    path,
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="icon" href="data:,"><title>Results</title>'
    f'<style>{CSS}</style></head>\n<body>{body}</body></html>\n',
  )


def _embedded(page: str, folder: pathlib.Path) -> str:
  """The page with its pictures inside."""

  def data_uri(found: re.Match) -> str:
    data = base64.b64encode((folder / found[1]).read_bytes()).decode()
    return f'src="data:image/png;base64,{data}"'

  return re.sub(r'src="([\w-]+\.png)"', data_uri, page)
