"""results/pod_plan.md: NFNet-F0 to F6 on TPUs, 32 images a core."""

import importlib.metadata
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from nfnets import budget, plan, pod_page, pods
from nfnets.bench import programs, published

IMAGES_PER_CORE = 32  # paper A, Table 3
RECIPES = tuple(pod_page.PAPER_MS)
# 84 blocks, compiled as 8. A loop keeps all that the backward pass reads, which
# is more than a v3 core has.
CHANGES = {'nfnet_f6_sam': {'model.scan': True, 'model.remat': True}}
NAME = 'pod_plan'
PLAIN = programs.PLAIN | {'optimizer.clip': 'none', 'ema.mode': 'none'}


def write(
  folder: pathlib.Path,
  to_compile: Sequence[str],
  config_of: Callable[[str], ConfigDict],
  report: Callable[[str], None],
  checkout: str | None = None,
) -> str:
  """Measures what is missing, each kept at once, and writes the table.

  Args:
    folder: of pod_plan.json and pod_plan.md.
    to_compile: cells such as 'nfnet_f0@v3' to compile, unless they are kept
      as compiled already; all others are estimated.
    config_of: a recipe by its file's name.
    report: is told of each cell.
    checkout: of the published code, see `published.network`; cells such as
      'published@v3:2x2' need it.

  Returns:
    The table.

  Raises:
    ValueError: a cell isn't in the table or needs what isn't there: libtpu, or
      the published code.
  """
  places = pod_page.TOPOLOGIES
  cells = [f'{recipe}@{place}' for recipe in RECIPES for place in places]
  plain, theirs = (
    [f'{kind}@{topology}' for topology in pod_page.PUBLISHED]
    for kind in ('plain', 'published')
  )
  if checkout and not set(to_compile) & set(theirs):
    raise ValueError(
      f'--published={checkout}: --compile names no published cell, such as '
      f'{theirs[0]}'
    )
  for cell in to_compile:
    if cell not in cells + plain + theirs:
      raise ValueError(
        f'--compile={cell}: name cells such as {cells[0]}; recipes are '
        f'{", ".join(RECIPES)}, generations {", ".join(places)}; or '
        + ', '.join(plain + theirs)
      )
  path = folder / f'{NAME}.json'
  entries = json.loads(path.read_text()) if path.exists() else {}
  entries = {
    cell: e for cell, e in entries.items() if not _stale(cell, e, entries)
  }
  traced: dict[tuple, plan.Program] = {}
  # Estimates first: they are there when a compilation is interrupted.
  missing = [(c, False) for c in cells if c not in entries]
  missing += [
    (c, True)
    for c in to_compile
    if entries.get(c, {}).get('method') in (None, 'estimated')
  ]
  _check_published([cell for cell, _ in missing], entries, checkout)

  def keep(cell: str, entry: dict[str, Any]) -> None:
    entries[cell] = entry
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1) + '\n')

  for cell, compiled in missing:
    report(f'{"compiling" if compiled else "estimating"} {cell}')
    recipe, place = cell.split('@')
    if recipe == 'plain':
      keep(cell, _plain_entry(config_of('nfnet_f0'), place))
    elif recipe == 'published':
      keep(cell, _published_entry(checkout, place))
    else:
      config, pod = _changed(config_of(recipe), recipe, place)
      keep(cell, _entry(config, recipe, pod, compiled, traced))
  for cell in cells:
    entry = entries[cell]
    if not entry['fits'] and 'remedies' not in entry:
      report(f'estimating what makes {cell} fit')
      recipe, place = cell.split('@')
      config, pod = _changed(config_of(recipe), recipe, place)
      keep(cell, entry | {'remedies': _remedies(config, pod, entry)})
  text = pod_page.page(
    {cell: entries[cell] for cell in cells},
    {cell: entries[cell] for cell in plain + theirs if cell in entries},
  )
  (folder / f'{NAME}.md').write_text(text)
  return text


def _stale(
  cell: str, entry: Mapping[str, Any], entries: Mapping[str, Any]
) -> bool:
  kind, place = cell.split('@')
  if kind == 'published':  # beside ours by another compiler it says nothing
    ours = entries.get(f'plain@{place}', entry)
    return not pod_page.same_compiler(entry, ours)
  return entry.get('changes', {}) != CHANGES.get(kind, {})


def _check_published(
  cells: Sequence[str], entries: Mapping[str, Any], checkout: str | None
) -> None:
  """Refuses, before anything is compiled, what would come to nothing."""
  theirs = [cell for cell in cells if cell.startswith('published@')]
  for cell in theirs:
    ours = cell.replace('published', 'plain')
    if ours not in [*cells, *entries]:
      raise ValueError(f'--compile={cell}: name {ours} too, to stand beside it')
  if theirs:
    published.network(checkout or '', 'nfnet_f0')


def _changed(
  config: ConfigDict, recipe: str, generation: str
) -> tuple[ConfigDict, pods.Pod]:
  """The recipe as its row has it, and what it runs on."""
  pod = pods.find(pod_page.TOPOLOGIES[generation])
  devices = pod.num_devices
  with config.unlocked():
    config.update_from_flattened_dict(CHANGES.get(recipe, {}))
    config.batch_size = IMAGES_PER_CORE * pod.cores * devices
    config.eval_batch_size = -(-config.eval_batch_size // devices) * devices
  return config.copy_and_resolve_references(), pod


def _entry(
  config: ConfigDict,
  recipe: str,
  pod: pods.Pod,
  compiled: bool,
  traced: dict,
) -> dict[str, Any]:
  devices = pod.num_devices
  # Generations differ in what they hold, not in what is traced.
  same = config.to_json_best_effort(), devices
  if compiled or same not in traced:
    program = plan.measure(config, pod, compiled)
    if not compiled:
      traced[same] = program
  else:
    program = traced[same]
    program = program._replace(fits=program.memory <= pod.chip.memory)
  entry = {
    'recipe': config.model.name + (' with SAM' if config.sam.rho else ''),
    'topology': pod.name,
    'images_per_device': config.batch_size // devices,
    'changes': CHANGES.get(recipe, {}),
    **program._asdict(),
    'chip_memory': pod.chip.memory,
    'roofline': budget.roofline(config, pod, program)._asdict(),
    'jax': importlib.metadata.version('jax'),
  }
  if compiled:
    entry['libtpu'] = importlib.metadata.version('libtpu')
  return entry


def _remedies(
  config: ConfigDict, pod: pods.Pod, entry: Mapping[str, Any]
) -> list[str]:
  """What would make it fit, each alone, by estimates: the mildest of a kind."""
  fields = plan.Program._fields
  program = plan.Program(**{k: v for k, v in entry.items() if k in fields})
  tried = budget.remedies(config, pod, program, compiled=False)
  return [
    remedy.flags.replace('--config.', '')
    for remedy in tried
    if remedy.program.fits
  ]


def _plain_entry(config: ConfigDict, topology: str) -> dict[str, Any]:
  pod = pods.find(topology)
  with config.unlocked():
    config.update_from_flattened_dict(PLAIN)
    config.batch_size = IMAGES_PER_CORE * pod.num_devices
    config.eval_batch_size = config.batch_size
  config = config.copy_and_resolve_references()
  return _with_versions(plan.measure(config, pod, compiled=True))


def _published_entry(checkout: str, topology: str) -> dict[str, Any]:
  pod = pods.find(topology)
  batch_size = IMAGES_PER_CORE * pod.num_devices
  asked = published.step_of(checkout, 'nfnet_f0', batch_size, 0, 'bfloat16')
  files = published.fingerprints(checkout)
  return _with_versions(plan.account(*asked, pod)) | {'files': files}


def _with_versions(program: plan.Program) -> dict[str, Any]:
  return {
    **program._asdict(),
    'jax': importlib.metadata.version('jax'),
    'libtpu': importlib.metadata.version('libtpu'),
  }
