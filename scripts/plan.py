r"""Foresees a run on TPUs that are not attached.

  python -m scripts.plan --config=FILE --topology=v4:4x4x4 [--abstract]
  python -m scripts.plan --table [--compile=nfnet_f0@v3,nfnet_f6_sam@v3]

The first form compiles the recipe's training step for the topology (`libtpu`
needs no TPU: pip install -e '.[plan]') and prints what a device, a
host and the whole run need, whether the step fits, and if not what makes it
fit. Without libtpu, or with --abstract, the same is estimated from shapes.

A step takes at least the `bound`, its time at the chip's published peaks; hours
are a range from there to the published step time, or, where none is published,
to the largest ratio of a published step time to its bound.

The second form writes OUT/pod_plan.md: NFNet-F0 to F6 on v3, v4, v5e and v6e,
32 images a core, compiled where --compile says so, otherwise estimated.

Exit codes: 0 printed, 2 refused.
"""

import datetime
import importlib
import importlib.metadata
import pathlib
import subprocess
import sys
import textwrap

import jax
from absl import flags
from ml_collections import ConfigDict
from tabulate import tabulate

from experiments import costs
from nfnets import factory, finetune
from nfnets.plan import budget, compiled, pods
from nfnets.plan.compiled import Program
from nfnets.plan.pods import Pod
from scripts import common

CONFIG = common.config_flag()
TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'A slice of a TPU pod, such as v3:8x8 or v4:4x4x4.'
)
ABSTRACT = flags.DEFINE_bool('abstract', False, 'Estimate; compile nothing.')
IMAGES_PER_CORE = flags.DEFINE_float(
  'images_per_core',
  1050,  # AMD EPYC, photographs of 400x500: results/input_pipeline.md
  'Images/s that one core of a host decodes and crops.',
  lower_bound=1,
)
TABLE = flags.DEFINE_bool('table', False, 'Write OUT/pod_plan.md.')
COMPILE = flags.DEFINE_list(
  'compile', [], 'Rows of the table to compile, such as nfnet_f0@v3.'
)
OUT = flags.DEFINE_string('out', 'results', "The table's folder.")

GIB = 2**30
# The largest of TPUv3's published step times over their bounds: F4's and F5's,
# results/pod_plan.md.
SLOWEST = 2.6
PUBLISHED_AT = 32  # images a TPUv3 core, bfloat16 (paper A, Table 3)
# The table's rows and columns; a recipe's values differ from its file's.
RECIPES = {f'nfnet_f{n}': {} for n in range(6)} | {
  # 84 blocks: compiled as 8 (scan), recomputed in the backward pass (remat).
  'nfnet_f6_sam': {'model.scan': True, 'model.remat': True}
}
TOPOLOGIES = {
  'v3': 'v3:8x8',
  'v4': 'v4:4x4x4',
  'v5e': 'v5e:8x16',
  'v6e': 'v6e:8x16',
}

ABOUT = f"""The recipes of `configs/` in bfloat16, 32 images a core, 4,096 in
all. A row is one device: a core of v3, a chip of the others (two cores and 64
images of v4). Memory is arguments, temporaries and code, of what the compiler
lets a program use. The compiler accepts F6 with SAM on v3, though the memory
that it reports adds up to more than the core has: whether it runs is not known.
The bound is the largest of FLOPs over peak, bytes over bandwidth and
collectives over interconnect, and no more than a bound: published steps (paper
A, Table 3) take 2.0 to {SLOWEST} times as long. Bytes are estimates where the
step was estimated or loops (F6), and differ from"""


def main() -> None:
  if not jax.config.jax_platforms:  # don't look for the TPU
    jax.config.update('jax_platforms', 'cpu')
  if TABLE.value:
    write_table()
  else:
    config = common.needed(CONFIG, 'configs/nfnet_f4.py')
    print_plan(config, common.needed(TOPOLOGY, 'v4:4x4x4'))


def print_plan(config: ConfigDict, topology: str) -> None:
  pod = pods.find(topology)
  for line in finetune.complete(config):
    print(line)
  config = factory.resolve(config)
  is_compiled = compiled.has_compiler() and not ABSTRACT.value
  if not is_compiled:
    why = '--abstract' if ABSTRACT.value else 'libtpu is not installed'
    print(f'estimated from shapes, nothing compiled ({why})')
  compiled.check(config, pod)
  print(_headline(config, pod))
  if is_compiled:
    progress('compiling the training step; F0 takes minutes, F6 many')
  program = compiled.measure(config, pod, is_compiled)
  bounds = budget.roofline(config, pod, program)
  lines = _device_lines(config, pod, program, bounds)
  lines += _run_lines(config, pod, program, bounds.seconds)
  print('\n'.join(lines))
  print('\n'.join(_verdict(config, pod, program, is_compiled)))


def _headline(config: ConfigDict, pod: Pod) -> str:
  per_device = config.batch_size // pod.num_devices
  return (
    f'{config.model.name}, {config.data.train_image_size} pixels, '
    f'{config.precision}, batch {config.batch_size:,} on {pod.name}: '
    f'{pod.num_chips} chips, {pod.num_devices} devices (each a '
    f'{pod.device_kind} {pod.unit}), '
    f'{pod.num_hosts} host{"s" * (pod.num_hosts > 1)}; '
    f'{per_device} images per device'
  )


def _device_lines(
  config: ConfigDict, pod: Pod, program: Program, bounds: budget.Roofline
) -> list[str]:
  is_counted = program.method == 'compiled' and not compiled.loops(config)
  took = f' in {program.seconds:.0f} s' if program.seconds else ''
  code = 'not known' if program.code is None else _gib(program.code)
  lines = [
    f'each device ({program.method}{took})',
    f'  memory       {_gib(program.memory)} of {_gib(pod.chip.memory)}',
    f'    arguments  {_gib(program.arguments)}',
    f'    temporary  {_gib(program.temporaries)}',
    f'    code       {code}',
    *_excess(program, pod),
    f'  FLOPs        {program.flops:.4g}',
    f'  bytes        {program.bytes_accessed:.4g}',
    *([] if is_counted else [f'    estimated; {compiled.BYTES}']),
    f'  collectives  {program.collective_bytes:.4g} bytes',
    f"  bound        {1e3 * bounds.seconds:.1f} ms a step, at the chip's "
    f'peaks: arithmetic {1e3 * bounds.arithmetic:.1f}, memory '
    f'{1e3 * bounds.memory:.1f}, collectives {1e3 * bounds.collectives:.1f}',
  ]
  if published := costs.step_ms(config):
    lines.append(
      f'  published    {published:,.1f} ms a step, measured on TPUv3 at '
      f'{PUBLISHED_AT} images a core (paper A, Table 3)'
    )
  return lines


def _excess(program: Program, pod: Pod) -> list[str]:
  if program.peak is not None:
    return [f"    peak       {_gib(program.peak)}, the compiler's account"]
  if not program.fits or _is_within(program, pod):
    return []
  return [
    '    more than the chip has, though the compiler accepted the program: '
    'whether it runs is not known'
  ]


def _is_within(program: Program, pod: Pod) -> bool:
  return (program.peak or program.memory) <= pod.chip.memory


def _run_lines(
  config: ConfigDict, pod: Pod, program: Program, bound: float
) -> list[str]:
  slowest, why = SLOWEST * bound, f'{SLOWEST} times the bound'
  if _is_as_published(config, pod) and (published := costs.step_ms(config)):
    slowest, why = published / 1e3, 'the published step time'
  fast, slow = budget.run(config, pod, bound), budget.run(config, pod, slowest)
  most = fast.host_images_per_second
  rate = IMAGES_PER_CORE.value
  return [
    f'the run, {config.num_steps:,} steps, each from the bound to {why}',
    f'  hours        {fast.hours:.2f} to {slow.hours:.2f}, evaluations apart',
    f'  chip-hours   {fast.chip_hours:,.0f} to {slow.chip_hours:,.0f}',
    f'  checkpoint   {_gib(program.state_bytes)} each, '
    f'{_gib(program.state_bytes * config.keep_checkpoints)} kept',
    f'  input        up to {most:,.0f} images/s per host',
    f'  host cores   up to {most / rate:.1f} of {pod.host_cores}, at '
    f'{rate:,.0f} images/s a core (--images_per_core)',
  ]


def _verdict(
  config: ConfigDict, pod: Pod, program: Program, is_compiled: bool
) -> list[str]:
  if program.fits:
    return ['it fits' if _is_within(program, pod) else 'it compiles']
  lines = ['it does not fit; what was tried']
  fitting = []
  for remedy in budget.remedies(config, pod, program, is_compiled, progress):
    tried = remedy.program
    ms = 1e3 * budget.roofline(config, pod, tried).seconds
    lines.append(
      f'  {remedy.flags}: {tried.method}, {_gib(tried.memory)}, '
      f'{"fits" if tried.fits else "does not fit"}, {ms:.1f} ms'
    )
    fitting += [remedy.flags] if tried.fits else []
  if fitting:
    lines.append('fits with ' + ', or '.join(fitting))
  else:
    lines.append('none of these alone makes it fit: take more chips')
  return lines


def _is_as_published(config: ConfigDict, pod: Pod) -> bool:
  images = config.batch_size / pod.num_devices
  conditions = (pod.device_kind, images, config.precision)
  return conditions == ('TPU v3', PUBLISHED_AT, 'bfloat16')


def write_table() -> None:
  """Writes OUT/pod_plan.md, one row for each recipe and topology."""
  cells = [(recipe, place) for recipe in RECIPES for place in TOPOLOGIES]
  names = ['@'.join(cell) for cell in cells]
  for name in COMPILE.value:
    if name not in names:
      raise ValueError(f'--compile={name}: choose of {", ".join(names)}')
  rows = []
  for (recipe, place), name in zip(cells, names):
    progress(f'{"compiling" if name in COMPILE.value else "estimating"} {name}')
    config, pod = _cell(recipe, place)
    program = compiled.measure(config, pod, name in COMPILE.value)
    rows.append(_row(config, pod, program))
  text = page(rows, _where(COMPILE.value))
  folder = pathlib.Path(OUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'pod_plan.md').write_text(text)
  print(text, end='')


def _cell(recipe: str, place: str) -> tuple[ConfigDict, Pod]:
  """A recipe at 32 images a core of a topology."""
  pod = pods.find(TOPOLOGIES[place])
  config = importlib.import_module(f'configs.{recipe}').get_config()
  with config.unlocked():
    config.update_from_flattened_dict(RECIPES[recipe])
    config.batch_size = PUBLISHED_AT * pod.cores * pod.num_devices
    evaluation = -(-config.eval_batch_size // pod.num_devices)
    config.eval_batch_size = evaluation * pod.num_devices
  return factory.resolve(config), pod


def _row(config: ConfigDict, pod: Pod, program: Program) -> list[str]:
  bound = 1e3 * budget.roofline(config, pod, program).seconds
  published = costs.step_ms(config) if _is_as_published(config, pod) else None
  return [
    config.model.name
    + (' with SAM' if config.sam.rho else '')
    + (', remat' if config.model.remat else ''),
    pod.name,
    program.method,
    f'{program.memory / GIB:.2f} of {pod.chip.memory / GIB:.2f}',
    _fits(config, pod, program),
    f'{program.flops:.3g}',
    f'{program.bytes_accessed:.3g}',
    f'{bound:.1f}',
    f'{published:,.1f}' if published else '',
  ]


def _fits(config: ConfigDict, pod: Pod, program: Program) -> str:
  if program.fits:
    return 'yes' if _is_within(program, pod) else 'not known'
  fitting = [
    f'`{remedy.flags.removeprefix("--config.")}`'
    for remedy in budget.remedies(config, pod, program, is_compiled=False)
    if remedy.program.fits
  ]
  return 'no; with ' + ' or '.join(fitting) if fitting else 'no; more chips'


def page(rows: list[list[str]], where: str) -> str:
  """The text of pod_plan.md.

  Args:
    rows: see `_row`.
    where: date, commit, versions and command, as Markdown.
  """
  header = [
    'recipe', 'on', 'how', 'memory, GiB', 'fits', 'FLOPs', 'bytes',
    'bound, ms', 'paper A on TPUv3, ms',
  ]  # fmt: skip
  table = tabulate(rows, header, 'github', disable_numparse=True)
  about = textwrap.fill(f"{ABOUT} the compiler's count: {compiled.BYTES}.", 80)
  return f'# NFNets on TPU pods\n\n{where}\n\n{about}\n\n{table}\n'


def _where(cells: list[str]) -> str:
  def version(name: str) -> str:
    return f'{name} {importlib.metadata.version(name)}'

  command = 'python -m scripts.plan --table'
  if cells:
    command += f' --compile={",".join(cells)}'
  commit = subprocess.run(
    ['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True
  ).stdout.strip()
  versions = [version(name) for name in ('jax', *['libtpu'] * bool(cells))]
  parts = [f'{datetime.date.today()}', f'commit {commit}', *versions]
  return f'{", ".join(parts)}, by `{command}`.'


def _gib(count: float) -> str:
  return f'{count / GIB:.2f} GiB'


def progress(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


if __name__ == '__main__':
  common.run(main)
