"""The report of one experiment, and of all of them, from records alone."""

import base64
import contextlib
import importlib
import io
import math
import pathlib
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tabulate

from experiments import _figures, _sentences, costs, records, study
from experiments.study import FULL, Experiment, Row, Rows
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
IDLE = 'Ready to run; not run, or only as smoke tests'
WORDS = (*ANSWERS.values(), NOT_RUN)
# Its plot answers the study's question best so far; the README shows it too.
ANSWER = 'pilot'
CAPTION = (
  'The short runs that chose the learning rates: held-out accuracy by rate. In '
  'the longer runs, above, the order differs.'
)
LEAD = """\
Each of our numbers comes from a record in `NAME/runs/`, which holds its config
and hardware. A run that diverged is reported as such and enters no mean. A
check that compares trained rows is decided if the 95 % t interval of their
difference lies on one side of the bound, or if all runs of one row diverged and
none of the other. Otherwise it is undecided, and so it is if the row with the
better runs diverged more often, or if AGC kept a row's skip gains from opening.
Differences are paired by seed. Their spread is what row and seed, as additive
effects, leave of the accuracies of all rows of an experiment, as planned; one
with a single seed uses that of ResNet-20 runs with three, 1.6 points. That
suits neither rows much steadier nor much less steady than the others, so the
interval by a difference's own pairs alone stands beside it; it decides nothing.
The many checks are not corrected for their number. In tables, ± is the standard
deviation over seeds; in differences, half the 95 % interval. Brackets behind
correlations are 95 % intervals, and t tests whether two of them differ. BN is
batch normalization, NF normalizer-free. Paper A is arXiv 2102.06171, paper B
arXiv 2101.08692."""
GROWTH = (
  'Gain growth is the sum of learning rate x lambda / (1 - momentum) over the '
  'updates. A skip gain that starts at 0 and is clipped by AGC can reach 1 '
  f'only if this is at least {study.OPEN:.1f}.'
)
OWN = """\
These experiments have records in this folder; the columns count their checks.
Two lists that open at a click hold the experiments without records and the
claims that the study tests. The reports follow."""
PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>Results</title><style>
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  font: 16px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid #ccc; padding: .2rem .6rem; }
img { max-width: 100%; }
pre { overflow-x: auto; background: #f4f4f4; padding: .5rem; }
</style></head>
<body>BODY</body></html>
"""


def write(name: str, root: pathlib.Path) -> pathlib.Path:
  """Writes README.md and plot.png of an experiment into `root`/name."""
  experiment, folder = study.load(name), root / name
  recorded = records.read_all(root, name)
  found = experiment.gather(recorded)
  folder.mkdir(parents=True, exist_ok=True)
  picture, plot = '', folder / 'plot.png'
  if figure := _figures.draw(experiment, found):
    save(figure, plot)
    picture = f'![{experiment.title}](plot.png)'
  else:
    plot.unlink(missing_ok=True)  # of records that are gone
  module = importlib.import_module(f'experiments.{name}')
  parts = (
    f'# {experiment.title}\n\nClaim under test: {experiment.claim}',
    checks(experiment, found),
    table(experiment, found),
    picture,
    note(folder),
    module.__doc__.partition('\n')[2].strip(),
    origin(recorded),
    commands(name, experiment, found),
    not_run(name, experiment, found),
  )
  text = '\n\n'.join(part for part in parts if part)
  workdir.write_atomically(folder / 'README.md', text + '\n')
  return folder / 'README.md'


def note(folder: pathlib.Path) -> str:
  """The hand-written comment on the results, if there is one."""
  path = folder / 'note.md'
  return path.read_text().strip() if path.exists() else ''


def checks(experiment: Experiment, found: Mapping[str, Rows]) -> str:
  """The checks as a list; those that were not planned stand apart."""
  lines = []
  for sentence, check in (experiment.checks | experiment.explored).items():
    if sentence == next(iter(experiment.explored), None):
      lines.append('\nExploratory, not planned before the runs:\n')
    word, scale, numbers = answer(check, experiment, found)
    details = '; '.join(x for x in (scale, numbers) if x not in ('', FULL))
    suffix = f' ({details})' if details else ''
    lines.append(f'- **{word}**: {sentence}{suffix}')
  return '\n'.join(lines)


def answer(
  check: study.Check, experiment: Experiment, found: Mapping[str, Rows]
) -> tuple[str, str, str]:
  """A check's answer, and the scale and numbers that it rests on.

  The scale is the fullest one that has the check's rows.
  """
  numbers = getattr(check, 'numbers', lambda rows: '')
  for scale, rows in found.items():
    if not experiment.scales[scale].smoke:
      with contextlib.suppress(study.NotRun):
        return ANSWERS[check(rows)], scale, numbers(rows)
  return NOT_RUN, '', ''


def table(experiment: Experiment, found: Mapping[str, Rows]) -> str:
  """A line for each row with a record or a published number."""
  published, columns = experiment.published, []
  for scale, rows in found.items():
    smoke = ' (smoke test)' if experiment.scales[scale].smoke else ''
    heading = '' if scale == FULL else f'{scale}{smoke}: '
    for title, cell in (experiment.columns or trained(rows)).items():
      columns.append((heading + title, rows, cell))
      heading = ''
  header = ['row'] + (['published'] if published else [])
  header += [title for title, _, _ in columns]
  lines = []
  for name in dict.fromkeys((*experiment.rows, *published)):
    if name in published or any(name in rows for rows in found.values()):
      label = experiment.labels.get(name, '')
      line = [f'`{name}` {label}'.strip() if name in experiment.rows else name]
      line += [shown(published.get(name))] if published else []
      for _, rows, cell in columns:
        line.append(cell(rows[name]) if name in rows else '–')
      lines.append(line)
  if not lines:
    return ''
  align = ['left'] + ['right'] * (len(header) - 1)
  text = tabulate.tabulate(
    lines, header, 'pipe', disable_numparse=True, colalign=align
  )
  notes = legend(experiment, found)
  notes += [GROWTH] if 'gain growth' in header else []
  return f'{text}\n\n{" ".join(notes)}'.strip()


def legend(experiment: Experiment, found: Iterable[str]) -> list[str]:
  """What the tags of published numbers and the scales of a table mean."""
  tags = sorted({entry[1] for entry in experiment.published.values()})
  words = '; '.join(f'[{tag}] {TRUST[tag]}' for tag in tags)
  notes = [f'Published: {words}.'] if tags else []
  for scale in found:
    at = experiment.scales[scale]
    notes += [f'Scale `{scale}`: {at.note}.'] if at.note else []
    notes += ['It decides nothing.'] if at.smoke else []
  return notes


def shown(entry: tuple | None) -> str:
  """A published number as printed, with its tag and any comments."""
  if not entry:
    return '–'
  number, tag, *others = entry
  return '; '.join([f'{number} [{tag}]', *filter(None, others)])


def _runs(row: Row) -> str:
  ends = ', '.join(f'{end:,}' for end in row.diverged)
  return f'{len(row.records)}' + (f', diverged after {ends}' if ends else '')


def _growth(row: Row) -> str:
  if math.isinf(row.growth):
    return '–'
  return f'{row.growth:,.{0 if row.growth > 100 else 1}f}'


def trained(rows: Rows) -> dict[str, Callable[[Row], str]]:
  """The columns of trained rows: header to cell."""
  splits = {
    row.config['data'].get('eval_split', 'test') for row in rows.values()
  }
  is_test = all(split.startswith('test') for split in splits)
  columns = {
    'test top-1, %' if is_test else 'held-out top-1, %': lambda row: row.text,
    'runs': _runs,
    'training loss': lambda row: f'{row.loss:.3f}'.replace('nan', '–'),
    'updates': lambda row: f'{row.updates:,}',
  }
  if any(math.isfinite(row.growth) for row in rows.values()):
    columns['gain growth'] = _growth
  return columns


def origin(recorded: Sequence[records.Record]) -> str:
  """The number of runs, the time they took, and on which hardware."""
  seconds, sources = 0.0, []
  for record in recorded:
    if 'same_as' in record:
      sources.append(f'`{record["row"]}` is {record["same_as"]}')
    else:
      seconds += record.get('seconds', 0.0) + _training_seconds(record)
    if at := record.get('hardware'):
      device = f'{at["device_count"]} x {at["device"]}'
      cpu = f'{at["cpu"]}, {at["cores"]} cores'
      sources.append(f'{device} ({cpu}), jax {record["versions"]["jax"]}')
    if record.get('commit'):
      sources.append(f'commit {record["commit"][:7]}')
  hours = [f'{seconds / 3600:.1f} hours'] if seconds else []
  count = f'{len(recorded)} record{"s" if len(recorded) > 1 else ""}'
  parts = dict.fromkeys([count, *hours, *sorted(sources)])
  return f'{"; ".join(parts)}.' if recorded else ''


def _training_seconds(record: records.Record) -> float:
  """A run's steps times their median logged duration: pauses don't count."""
  points = [p for p in record.get('curve', ()) if 'train/step_seconds' in p]
  pace = [p['train/step_seconds'] for p in points]
  return points[-1]['step'] * statistics.median(pace) if points else 0.0


def commands(
  name: str, experiment: Experiment, found: Mapping[str, Rows]
) -> str:
  """The commands that repeat the records and this report."""
  call, lines = 'python -m scripts.experiment', ['```']
  for scale in found or [next(iter(experiment.scales))]:
    place = f'--experiment={name}'
    place += '' if scale == FULL else f' --scale={scale}'
    if experiment.measure:
      lines.append(f'{call} measure {place}')
      continue
    alike: dict[tuple, list[str]] = {}  # rows by their seeds and further flags
    for row in found.get(scale, {}).values():
      flags = records.further_flags(row.records[0])
      seeds = sorted(record['seed'] for record in row.records)
      seeds = () if seeds == list(experiment.seeds) else tuple(seeds)
      alike.setdefault((seeds, flags), []).append(row.name)
    for (seeds, flags), rows in (alike or {((), ()): []}).items():
      only = f' --only={",".join(rows)}' if len(alike) > 1 or flags else ''
      only += f' --seeds={",".join(map(str, seeds))}' if seeds else ''
      words = ' '.join(('--config.data.data_dir=DATA', *flags))
      lines.append(f'{call} run {place}{only} -- {words}')
  return '\n'.join([*lines, f'{call} report --experiment={name}', '```'])


def not_run(
  name: str, experiment: Experiment, found: Mapping[str, Rows]
) -> str:
  """The runs without a record, of the fullest scale and those with records."""
  lines = []
  for scale in dict.fromkeys([next(iter(experiment.scales)), *found]):
    for row in experiment.rows_at(scale):
      recorded = found.get(scale, {}).get(row)
      done = [r['seed'] for r in recorded.records] if recorded else []
      left = [seed for seed in experiment.seeds if seed not in done]
      if left and not (done and experiment.measure):
        run = records.Run(name, row, scale)
        cost = costs.of_seed(experiment, run)
        lines.append((f'`{run.place}`', ', '.join(map(str, left)), cost))
  command = f'train --config=experiments/{name}.py:ROW --workdir=runs/ROW'
  if experiment.measure:
    command = f'experiment measure --experiment={name} --only=ROW'
  header = ('ROW', 'seeds', 'cost of a seed')
  text = tabulate.tabulate(lines, header, 'github', disable_numparse=True)
  text = f'`python -m scripts.{command}`\n\n{text}' if lines else ''
  return folded(f'Rows not run, or not with all seeds: {len(lines)}', text)


def folded(summary: str, text: str) -> str:
  """A text that opens at a click; nothing if there is no text."""
  opening = f'<details><summary>{summary}</summary>'
  return f'{opening}\n\n{text}\n\n</details>' if text else ''


def save(figure: Any, path: pathlib.Path) -> None:
  """Writes a plot with a color palette, which is a third of the size."""
  from PIL import Image

  file = io.BytesIO()
  figure.savefig(file, dpi=110)
  image = Image.open(file).convert('RGB')
  # Other methods merge the colors of thin lines, which have few pixels.
  few = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=0)
  few.save(path, optimize=True)


def write_overview(root: pathlib.Path) -> pathlib.Path:
  """Writes `root`/README.md: a paragraph, a figure, the claims, all checks.

  The paragraph is the first one of the hand-written note; the others follow the
  claims. Without a note, it is a user's own folder: records come first.
  """
  (preface, _, details), lines, idle = note(root).partition('\n\n'), [], []
  for name in study.names():
    experiment = study.load(name)
    found = experiment.gather(records.read_all(root, name))
    words = [
      answer(c, experiment, found)[0] for c in experiment.checks.values()
    ]
    title = f'[{experiment.title}]({name}/README.md)'
    ours = [at for at in found if not (preface and experiment.scales[at].smoke)]
    if not ours:
      idle.append(f'- {title}')
    else:
      lines.append((title, *(words.count(word) or '' for word in WORDS)))
  table = tabulate.tabulate(lines, ('experiment', *WORDS), 'github')
  claims, ready = sentences(root), '\n'.join(idle)
  if preface:
    is_there = (root / ANSWER / 'plot.png').exists()
    picture = f'![{CAPTION}]({ANSWER}/plot.png)\n\n*{CAPTION}*'
    picture = picture if is_there else ''
    ready = f'{IDLE}:\n\n{ready}' if idle else ''
    parts = [preface, picture, claims, details, LEAD, table, ready]
  else:
    table = table if lines else 'There are no records yet.'
    parts = [OWN, table, LEAD, folded(IDLE, ready)]
    parts += [folded("The study's claims", claims)]
  text = '\n\n'.join(('# Results', *filter(None, parts))) + '\n'
  workdir.write_atomically(root / 'README.md', text)
  return root / 'README.md'


def sentences(root: pathlib.Path) -> str:
  """The report's claims, what we found, at which scale and by how much.

  Claims whose runs are missing come last, as a list.
  """
  lines, untested = [], []
  for sentence, checks_of_it in _sentences.SENTENCES.items():
    first = sentence
    for name, claim in checks_of_it:
      experiment = study.load(name)
      found = experiment.gather(records.read_all(root, name))
      check = (experiment.checks | experiment.explored)[claim]
      word, scale, numbers = answer(check, experiment, found)
      about = experiment.scales[scale].note if scale else ''
      link = f'[{claim}]({name}/README.md)'
      link += ' (exploratory)' if claim in experiment.explored else ''
      if word == NOT_RUN:
        untested.append(f'- {sentence}: {link}')
      else:
        lines.append((first, link, f'**{word}**', numbers, about))
        first = ''
  header = ('the report', 'checked', 'answer', 'numbers', 'scale')
  table = tabulate.tabulate(lines, header, 'github') if lines else ''
  summary, text = f'Not tested yet: {len(untested)}', '\n'.join(untested)
  return '\n\n'.join(filter(None, (table, folded(summary, text))))


def write_html(root: pathlib.Path, path: pathlib.Path) -> None:
  """Writes the overview and all reports in `root` as one page."""
  from markdown_it import MarkdownIt

  def embedded(picture: re.Match) -> str:
    data = base64.b64encode((root / picture[1]).read_bytes())
    return f'src="data:image/png;base64,{data.decode()}"'

  overview = (root / 'README.md').read_text()
  overview = re.sub(r'\(([\w-]+)/README\.md\)', r'(#\1)', overview)
  # The page stands alone: other files are named, not linked.
  parts = [re.sub(r'\[([^]]+)\]\((\w+\.md)\)', r'\1 (`\2`)', overview)]
  names = sorted(study.names(), key=lambda n: not records.read_all(root, n))
  for name in names:
    page = root / name / 'README.md'
    if page.exists():
      text = page.read_text().replace('](plot.png)', f']({name}/plot.png)')
      parts += [f'<section id="{name}">', text, '</section>']
  markdown = MarkdownIt('commonmark').enable('table')
  body = markdown.render('\n\n'.join(parts))
  body = re.sub(r'src="([\w/-]+\.png)"', embedded, body)
  workdir.write_atomically(path, PAGE.replace('BODY', body))
