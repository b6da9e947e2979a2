r"""Plans a training run on TPUs that are not attached.

  python -m scripts.plan --config=FILE --topology=v4:4x4x4 [--abstract]
  python -m scripts.plan --table [--compile=nfnet_f0@v3,nfnet_f6_sam@v3]

The first form compiles the recipe's training step for the topology (libtpu
needs no TPU: pip install -e '.[plan]') and prints what each device, each host
and the whole run need, and whether the step fits in memory; if it doesn't,
which changes make it fit. Without libtpu, or with --abstract, all of this is
estimated from shapes.

`bound` is the least time that a step can take, at the chip's published peaks.
The hours range from the bound to the published step time or, where none is
published, to the largest ratio of a published step time to its bound.

The second form writes OUT/pod_plan.md: NFNet-F0 to F6 on v3, v4, v5e and v6e
with 32 images a core. The rows named by --compile are compiled, all others
estimated.

Exit codes: 0 printed, 2 refused.
"""

import datetime
import importlib
import importlib.metadata
import math
import pathlib
import sys
import textwrap

import jax
from absl import flags
from ml_collections import ConfigDict
from tabulate import tabulate

from experiments import costs, records
from nfnets import checks
from nfnets.plan import budget, compiled, pods
from nfnets.plan.compiled import Program
from nfnets.plan.pods import Pod
from scripts import common

CONFIG = common.config_flag()
TOPOLOGY = flags.DEFINE_string(
  'topology', None, 'Slice of a TPU pod, such as v3:8x8 or v4:4x4x4.'
)
ABSTRACT = flags.DEFINE_bool('abstract', False, 'Estimate without compiling.')
IMAGES_PER_CORE = flags.DEFINE_float(
  'images_per_core',
  1050,  # AMD EPYC, photographs of 400x500: results/input_pipeline.md
  'Images per second that one host core decodes and crops.',
  lower_bound=1,
)
TABLE = flags.DEFINE_bool(
  'table', False, 'Write OUT/pod_plan.md, the table of all NFNets.'
)
COMPILE = flags.DEFINE_list(
  'compile', [], 'With --table: rows to compile, such as nfnet_f0@v3.'
)
OUT = flags.DEFINE_string('out', 'results', 'With --table: folder to write to.')

GIB = 2**30
# The largest ratio of a published step time on TPUv3 to its bound: F4 and F5 in
# results/pod_plan.md.
SLOWEST = 2.6
PUBLISHED_AT = 32  # images per TPUv3 core, bfloat16 (paper A, Table 3)
# Rows and columns of the table; the values change a recipe.
RECIPES = {f'nfnet_f{n}': {} for n in range(6)} | {
  # scan compiles 8 blocks for 84; remat recomputes them in the backward pass.
  'nfnet_f6_sam': {'model.scan': True, 'model.remat': True}
}
TOPOLOGIES = {
  'v3': 'v3:8x8',
  'v4': 'v4:4x4x4',
  'v5e': 'v5e:8x16',
  'v6e': 'v6e:8x16',
}

ABOUT = f"""The recipes of `configs/` in bfloat16, with 32 images a core, 4,096
in all. Each row is about one device: a core of v3, a chip of the others (on v4,
two cores and 64 images). Memory is the sum of arguments, temporaries and code,
out of what the compiler lets a program use. The compiler accepts F6 with SAM on
v3, although the memory that it reports exceeds the core's; whether it runs is
not known. The bound is the largest of FLOPs over peak, bytes over bandwidth and
collectives over interconnect. Published steps (paper A, Table 3) take 2.0 to
{SLOWEST} times as long. Bytes are estimates where the step was estimated or has
loops (F6):"""
HEADER = (
  'recipe', 'on', 'how', 'memory, GiB', 'fits', 'FLOPs', 'bytes', 'bound, ms',
  'paper A on TPUv3, ms',
)  # fmt: skip


def main() -> None:
  if not math.isfinite(IMAGES_PER_CORE.value):
    raise ValueError(
      f'--images_per_core={IMAGES_PER_CORE.value}: must be a finite number'
    )
  if not jax.config.jax_platforms:  # don't look for a TPU
    jax.config.update('jax_platforms', 'cpu')
  if TABLE.value:
    write_table()
  else:
    print_plan(
      common.recipe(CONFIG), pods.find(common.needed(TOPOLOGY, 'v4:4x4x4'))
    )


def print_plan(config: ConfigDict, pod: Pod) -> None:
  is_compiled = compiled.has_compiler() and not ABSTRACT.value
  if not is_compiled:
    why = '--abstract' if ABSTRACT.value else 'libtpu is not installed'
    print(f'estimated from shapes, nothing compiled ({why})')
  checks.check(config, pod.num_devices)
  print(
    f'{config.model.name}, {config.data.train_image_size} pixels, '
    f'{config.precision}, batch {config.batch_size:,} on {pod.name}: '
    f'{pod.num_chips} chips, {pod.num_devices} devices (each a '
    f'{pod.generation.device_kind} {pod.unit}), {pod.num_hosts} hosts; '
    f'{config.batch_size // pod.num_devices} images per device'
  )
  if is_compiled:
    progress('compiling the training step; F0 takes minutes, F6 many')
  program = compiled.measure(config, pod, is_compiled)
  for title, facts in (
    (f'each device ({program.method})', of_device(config, pod, program)),
    (f'the run, {config.num_steps:,} steps', of_run(config, pod, program)),
  ):
    print(title)
    for name, fact in facts.items():
      print(f'  {name:12} {fact}')
  if program.fits and not is_within(program, pod):
    print(
      'the compiler accepts it, although it exceeds the memory of the chip; '
      'whether it runs is not known'
    )
  elif program.fits:
    print('it fits')
  else:
    print('\n'.join(what_fits(config, pod, program, is_compiled)))


def of_device(config: ConfigDict, pod: Pod, program: Program) -> dict[str, str]:
  """Returns what a step needs of one device, and its lower bound."""
  bounds = budget.roofline(config, pod, program)
  facts = {
    'memory': f'{gib(program.memory)} of {gib(pod.chip.memory)}',
    '  arguments': gib(program.arguments),
    '  temporary': gib(program.temporaries),
    '  code': gib(program.code),
    "  peak, the compiler's account": gib(program.peak),
    'FLOPs': f'{program.flops:.4g}',
    'bytes': f'{program.bytes_accessed:.4g}',
    'collectives': f'{program.collective_bytes:.4g} bytes',
    'bound': f"{1e3 * bounds.seconds:.1f} ms a step at the chip's peaks: "
    f'arithmetic {1e3 * bounds.arithmetic:.1f}, '
    f'memory {1e3 * bounds.memory:.1f}, '
    f'collectives {1e3 * bounds.collectives:.1f}',
  }
  if program.method != 'compiled' or compiled.has_loops(config):
    facts['bytes'] += f', estimated; {compiled.BYTES}'
  if published := costs.step_ms(config):
    facts['published'] = (
      f'{published:,.1f} ms a step, measured on TPUv3 at {PUBLISHED_AT} images '
      'a core (paper A, Table 3)'
    )
  return {name: fact for name, fact in facts.items() if fact}


def of_run(config: ConfigDict, pod: Pod, program: Program) -> dict[str, str]:
  """Returns what the run needs, from the bound to a slower step."""
  bound = budget.roofline(config, pod, program).seconds
  slowest, why = SLOWEST * bound, f'{SLOWEST} times the bound'
  if published := published_ms(config, pod):
    slowest, why = published / 1e3, 'the published step time'
  fast, slow = (config.num_steps * each / 3600 for each in (bound, slowest))
  images = budget.host_images_per_second(config, pod, bound)
  rate, cores = IMAGES_PER_CORE.value, pod.generation.host_cores
  return {
    'hours': f'{fast:.2f} to {slow:.2f}, from the bound to {why}, '
    'without evaluations',
    'chip-hours': f'{pod.num_chips * fast:,.0f} to {pod.num_chips * slow:,.0f}',
    'checkpoint': f'{gib(program.state_bytes)} each, '
    f'{gib(program.state_bytes * config.keep_checkpoints)} kept',
    'input': f'up to {images:,.0f} images/s per host',
    'host cores': f'up to {images / rate:.1f} of {cores}, at {rate:,.0f} '
    'images/s a core (--images_per_core)',
  }


def is_within(program: Program, pod: Pod) -> bool:
  return (program.peak or program.memory) <= pod.chip.memory


def what_fits(
  config: ConfigDict, pod: Pod, program: Program, is_compiled: bool
) -> list[str]:
  lines, fitting = ['it does not fit; tried:'], []
  for flags_, tried in budget.remedies(
    config, pod, program, is_compiled, progress
  ):
    ms = 1e3 * budget.roofline(config, pod, tried).seconds
    fits = 'fits' if tried.fits else 'does not fit'
    lines.append(
      f'  {flags_}: {tried.method}, {gib(tried.memory)}, {fits}, {ms:.1f} ms'
    )
    fitting += [flags_] if tried.fits else []
  if not fitting:
    return [*lines, 'none of these alone makes it fit: use more chips']
  return [*lines, 'it fits with ' + ', or '.join(fitting)]


def published_ms(config: ConfigDict, pod: Pod) -> float | None:
  """Returns paper A's step time if it was measured on the same device."""
  images = config.batch_size / pod.num_devices
  here = pod.generation.device_kind, images, config.precision
  is_same = here == ('TPU v3', PUBLISHED_AT, 'bfloat16')
  return costs.step_ms(config) if is_same else None


def write_table() -> None:
  """Writes OUT/pod_plan.md, one row for each recipe and topology."""
  names = [f'{recipe}@{place}' for recipe in RECIPES for place in TOPOLOGIES]
  for name in COMPILE.value:
    if name not in names:
      raise ValueError(f'--compile={name}: choose from {", ".join(names)}')
  rows = []
  for name in names:
    is_compiled = name in COMPILE.value
    progress(f'{"compiling" if is_compiled else "estimating"} {name}')
    rows.append(table_row(*name.split('@'), is_compiled))
  about = textwrap.fill(f'{ABOUT} {compiled.BYTES}.', 80)
  table = tabulate(rows, HEADER, 'github', disable_numparse=True)
  text = f'# NFNets on TPU pods\n\n{origin()}\n\n{about}\n\n{table}\n'
  folder = pathlib.Path(OUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'pod_plan.md').write_text(text)
  print(text, end='')


def table_row(recipe: str, place: str, is_compiled: bool) -> list[str]:
  """Plans a recipe with 32 images a core of a topology."""
  pod = pods.find(TOPOLOGIES[place])
  config = importlib.import_module(f'configs.{recipe}').get_config()
  with config.unlocked():
    config.update_from_flattened_dict(RECIPES[recipe])
    config.batch_size = PUBLISHED_AT * pod.generation.cores * pod.num_devices
  config = checks.resolve(config)
  program = compiled.measure(config, pod, is_compiled)
  fits = 'yes' if is_within(program, pod) else 'not known'
  if not program.fits:
    remedies = [
      f'`{flags_.removeprefix("--config.")}`'
      for flags_, tried in budget.remedies(
        config, pod, program, is_compiled=False
      )
      if tried.fits
    ]
    fits = f'no; {"with " + " or ".join(remedies) or "more chips"}'
  sam, remat = config.sam.rho > 0, config.model.remat
  published = published_ms(config, pod)
  return [
    f'{config.model.name}{" with SAM" * sam}{", remat" * remat}',
    pod.name,
    program.method,
    f'{program.memory / GIB:.2f} of {pod.chip.memory / GIB:.2f}',
    fits,
    f'{program.flops:.3g}',
    f'{program.bytes_accessed:.3g}',
    f'{1e3 * budget.roofline(config, pod, program).seconds:.1f}',
    f'{published:,.1f}' if published else '',
  ]


def origin() -> str:
  """Date, commit, versions and command, as Markdown."""
  command = 'python -m scripts.plan --table'
  if COMPILE.value:
    command += f' --compile={",".join(COMPILE.value)}'
  packages = ('jax', 'libtpu') if COMPILE.value else ('jax',)
  versions = [f'{name} {importlib.metadata.version(name)}' for name in packages]
  parts = [f'{datetime.date.today()}', f'commit {records.commit()[:7]}']
  return f'{", ".join((*parts, *versions))}, by `{command}`.'


def gib(count: float | None) -> str:
  return '' if count is None else f'{count / GIB:.2f} GiB'


def progress(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


if __name__ == '__main__':
  common.run(main)
