r"""Plans a run on TPUs that aren't there: python -m scripts.plan.

  python -m scripts.plan --config=FILE --topology=v4:4x4x4 [--abstract]
  python -m scripts.plan --table [--compile=nfnet_f0@v3,plain@v3:2x2] \
    [--published=FOLDER]

The first compiles the recipe's train step for the topology (`libtpu` needs no
TPU; requirements-plan.txt) and prints what a device, a host and the whole run
need, whether it fits, and if not what makes it fit. Without libtpu, or with
--abstract, the same is estimated from shapes. The second keeps NFNet-F0 to F6
at 32 images a core on v3, v4, v5e and v6e in OUT/pod_plan.json, compiles what
is named and not yet there, estimates the rest, and writes OUT/pod_plan.md;
'plain' cells are F0's step without its recipe's extras, and 'published' ones
that of the published network, from the folder nfnets of a checkout of
google-deepmind/deepmind-research, whose base.py and nfnet.py are run.
"""

import json
import os
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags
from ml_collections import ConfigDict, config_flags

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'A recipe, such as configs/nfnet_f4.py.', lock_config=True
)
TOPOLOGY = flags.DEFINE_string('topology', None, 'Such as v3:8x8, v4:4x4x4.')
ABSTRACT = flags.DEFINE_bool('abstract', False, 'Estimate; compile nothing.')
IMAGES_PER_CORE = flags.DEFINE_float(
  'images_per_core',
  None,
  'Images/s that one host core prepares; default: results/input_pipeline.json.',
)
TABLE = flags.DEFINE_bool('table', False, 'Write OUT/pod_plan.md.')
COMPILE = flags.DEFINE_list(
  'compile', [], 'Cells of the table to compile, such as nfnet_f0@v3.'
)
PUBLISHED = flags.DEFINE_string(
  'published', None, "The published code's folder, for 'published' cells."
)
OUT = flags.DEFINE_string('out', 'results', "The table's folder.")

REFUSED = 2
GIB = 2**30
MEASURED = 'results/input_pipeline.json'
PHOTOS = 'caltech101_400x500'  # photographs of ImageNet's usual size
PIPELINE = 'host pipeline from memory, 1 thread'


def main(argv: Sequence[str]) -> int:
  # A machine that plans has no TPU, and JAX would look for one.
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  if len(argv) > 1:
    return refuse(f'unexpected argument {argv[1]!r}; flags start with --')
  try:
    if TABLE.value:
      from nfnets import pod_table

      text = pod_table.write(
        pathlib.Path(OUT.value),
        COMPILE.value,
        _config_of,
        report,
        PUBLISHED.value,
      )
      print(text, end='')
      return 0
    if CONFIG.value is None:
      return refuse('name a recipe: --config=configs/nfnet_f4.py')
    if not TOPOLOGY.value:
      return refuse('name a topology: --topology=v4:4x4x4')
    print_plan(CONFIG.value, TOPOLOGY.value)
  except (ValueError, TypeError, OSError) as error:
    return refuse(str(error))
  return 0


def print_plan(config: ConfigDict, topology: str) -> None:
  from nfnets import finetune, plan, pods

  pod = pods.find(topology)
  for line in finetune.complete(config):
    print(line)
  config = config.copy_and_resolve_references()
  compiled = plan.has_compiler() and not ABSTRACT.value
  if not compiled:
    why = '--abstract' if ABSTRACT.value else 'libtpu is not installed'
    print(f'estimated from shapes, nothing compiled ({why})')
  plan.check(config, pod)
  rate, source = images_per_core()
  print(_describe(config, pod))
  if compiled:
    report('compiling the train step; F0 takes minutes, F6 many')
  program = plan.measure(config, pod, compiled)
  for line in _device_lines(config, pod, program):
    print(line)
  for line in _run_lines(config, pod, program, rate, source):
    print(line)
  for line in _verdict(config, pod, program, compiled):
    print(line)


def images_per_core() -> tuple[float, str]:
  """A host core's images/s, and where the number is from."""
  if IMAGES_PER_CORE.value is not None:
    if not IMAGES_PER_CORE.value > 0:
      raise ValueError('--images_per_core must be above 0')
    return IMAGES_PER_CORE.value, '--images_per_core'
  path = pathlib.Path(MEASURED)
  if not path.exists():
    raise ValueError(f'no {MEASURED} here: pass --images_per_core')
  entry = json.loads(path.read_text())[PHOTOS]
  rate = entry['rates'][PIPELINE]['per_core']
  processor = entry['where']['processor']
  return rate, f'{processor}, photographs of 400x500, {MEASURED}'


def _describe(config: ConfigDict, pod: object) -> str:
  per_device = config.batch_size // pod.num_devices
  kind = f'{pod.device_kind} {pod.unit}'
  return (
    f'{config.model.name}, {config.data.train_image_size} pixels, '
    f'{config.precision}, batch {config.batch_size:,} on {pod.name}: '
    f'{pod.num_chips} chips, {pod.num_devices} devices (each a {kind}), '
    f'{pod.num_hosts} host{"s" * (pod.num_hosts > 1)}; '
    f'{per_device} images per device'
  )


def _device_lines(
  config: ConfigDict, pod: object, program: object
) -> list[str]:
  from nfnets import budget, plan

  bounds = budget.roofline(config, pod, program)
  counted = program.method == 'compiled' and not plan.loops(config)
  note = [] if counted else [f'    estimated; {plan.BYTES}']
  code = 'not known' if program.code is None else _gib(program.code)
  return [
    f'each device ({program.method}'
    + (f' in {program.seconds:.0f} s)' if program.seconds else ')'),
    f'  memory       {_gib(program.memory)} of {_gib(pod.chip.memory)}',
    f'    arguments  {_gib(program.arguments)}',
    f'    temporary  {_gib(program.temporaries)}',
    f'    code       {code}',
    *_excess(program, pod),
    f'  FLOPs        {program.flops:.4g}',
    f'  bytes        {program.bytes_accessed:.4g}',
    *note,
    *_where(program),
    f'  collectives  {program.collective_bytes:.4g} bytes',
    f'  roofline     {1e3 * bounds.seconds:.1f} ms: arithmetic '
    f'{1e3 * bounds.arithmetic:.1f}, memory {1e3 * bounds.memory:.1f}, '
    f'collectives {1e3 * bounds.collectives:.1f}',
  ]


def _excess(program: object, pod: object) -> list[str]:
  if program.method != 'compiled' or program.memory <= pod.chip.memory:
    return []
  return ['    more than there is, and yet the compiler took the program']


def _where(program: object) -> list[str]:
  if program.hbm_bytes is None:
    return []
  return [
    f'    {program.operation_bytes:.4g} by operations; through HBM, copies '
    f'to on-chip memory included, {program.hbm_bytes:.4g}'
  ]


def _run_lines(
  config: ConfigDict, pod: object, program: object, rate: float, source: str
) -> list[str]:
  from nfnets import budget

  seconds = budget.roofline(config, pod, program).seconds
  run = budget.run(config, pod, program, seconds, rate)
  return [
    'the run, were every step as fast as the roofline',
    f'  steps        {run.steps:,}',
    f'  hours        {run.hours:.2f}, evaluations apart',
    f'  chip-hours   {run.chip_hours:,.0f}',
    f'  checkpoint   {_gib(run.checkpoint_bytes)} each, '
    f'{_gib(run.kept_bytes)} kept',
    f'  input        {run.host_images_per_second:,.0f} images/s per host',
    f'  host cores   {run.host_cores:.1f} of {pod.host_cores}, at {rate:,.0f} '
    f'images/s a core ({source})',
  ]


def _verdict(
  config: ConfigDict, pod: object, program: object, compiled: bool
) -> list[str]:
  from nfnets import budget

  if program.fits:
    return ['it fits']
  lines = ['it does not fit; what was tried']
  fitting = []
  for remedy in budget.remedies(config, pod, program, compiled, report):
    tried = remedy.program
    ms = 1e3 * budget.roofline(config, pod, tried).seconds
    lines.append(
      f'  {remedy.flags}: {tried.method}, {_gib(tried.memory)}, '
      f'{"fits" if tried.fits else "does not fit"}, {ms:.1f} ms'
    )
    fitting += [(ms, remedy.flags)] if tried.fits else []
  if fitting:
    lines.append('fits with ' + ', or '.join(flags for _, flags in fitting))
  else:
    lines.append('none of these alone makes it fit: take more chips')
  return lines


def _config_of(name: str) -> ConfigDict:
  import importlib

  return importlib.import_module(f'configs.{name}').get_config()


def _gib(count: float) -> str:
  return f'{count / GIB:.2f} GiB'


def report(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def refuse(why: str) -> int:
  print(f'error: {" ".join(why.split())}', file=sys.stderr)
  return REFUSED


def parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; what is wrong with them is one line, not a traceback."""
  try:
    return flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
    sys.exit(refuse(str(e.args[0] if e.args else e)))


if __name__ == '__main__':
  app.run(main, flags_parser=parse_flags)
