"""What a step is made of on a GPU that isn't there."""

import json

import jax
import pytest
import tiny

from nfnets import compiler_words
from nfnets.bench import gpu_program
from nfnets.plan import compiled as plan
from scripts import gpu_program as script

needs_plugin = pytest.mark.skipif(
  not gpu_program.has_compiler(), reason="JAX's CUDA plugin is not installed"
)
PROGRAM = """
HloModule jit_step

%fused_computation (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %wide = f32[4,8]{1,0} add(%p, %p)
}

ENTRY %main.1 (x: bf16[2,6,6,8], w: f32[4,8]) -> f32[4,8] {
  %x = bf16[2,6,6,8]{3,2,1,0} parameter(0), metadata={op_name="x"}
  %w = f32[4,8]{1,0} parameter(1)
  %transpose_fusion = bf16[8,4]{1,0} fusion(%w), kind=kInput, calls=%other
  %conv.1 = (bf16[2,6,6,8]{3,2,1,0}, u8[0]{0}) custom-call(%x, \
%transpose_fusion), window={size=1x1}, \
custom_call_target="__cudnn$convForward"
  %first = bf16[2,6,6,8]{3,2,1,0} get-tuple-element(%conv.1), index=0
  %copy.2 = f32[4,8]{1,0} copy(%w)
  %gemm_fusion = f32[4,8]{1,0} fusion(%copy.2), kind=kCustom, calls=%product
  %loop = (f32[4,8]{1,0}, s32[]) while(%gemm_fusion), body=%body
  ROOT %add_fusion = f32[4,8]{1,0} fusion(%w, %gemm_fusion), kind=kLoop
}
"""


def test_kernels_are_those_of_the_entry_with_what_they_read_and_write():
  images, weights = 2 * 2 * 6 * 6 * 8, 4 * 4 * 8
  assert compiler_words.kernels(PROGRAM) == [
    ('transposition', weights + weights / 2),
    ('convolution', 2 * images + weights / 2),
    ('transposition', 2 * weights),
    ('product', 2 * weights),
    ('control', 2 * weights + 4),
    ('elementwise', 3 * weights),
  ]


@pytest.fixture
def run(set_flags):
  """Calls the script with flags set; returns its exit code."""

  def call(**values):
    defaults = {
      'model': ['nfnet_f0'],
      'batch_size': ['32'],
      'steps': ['plain'],
      'published': '',
      'out': 'results',
    }
    set_flags(script, **defaults | values)
    return script.main(['gpu_program'])

  return call


def test_without_the_plugin_the_remedy_is_named(monkeypatch, capsys, run):
  monkeypatch.setattr(gpu_program, 'PLUGIN', 'no_such.plugin')
  assert not gpu_program.has_compiler()
  assert run() == 2
  said = capsys.readouterr().err
  assert said.count('\n') == 1
  assert f'pip install jax-cuda12-plugin=={jax.__version__}' in said


@pytest.mark.parametrize(
  ('values', 'says'),
  [
    ({'model': ['f0']}, '--model=f0: choose of cifar_resnet110, '),
    ({'batch_size': ['0']}, '--batch_size=0: must be a whole number above 0'),
    ({'batch_size': ['many']}, '--batch_size=many: must be a whole number'),
    ({'steps': ['sam']}, '--steps=sam: choose of plain, recipe, published'),
  ],
)
def test_a_wrong_flag_is_one_line(values, says, capsys, run):
  assert run(**values) == 2
  said = capsys.readouterr().err
  assert said.startswith(f'error: {says}') and said.count('\n') == 1


def test_steps_are_kept_and_the_page_has_its_command(
  monkeypatch, tmp_path, capsys, run
):
  made = []

  def account(train_step, shapes):
    made.append(shapes[1]['images'].shape)
    kinds = {'convolution': 3e9, 'transposition': 1e9, 'elementwise': 2.5e9}
    counts = {'convolution': 170, 'transposition': 1000, 'elementwise': 2}
    return gpu_program.Account(counts, kinds, 2**30, 2**29, 1.0)

  monkeypatch.setattr(gpu_program, 'device', lambda: None)
  monkeypatch.setattr(gpu_program, 'account', account)
  for sizes in (['4', '8'], ['4']):  # the second replaces one of the first
    steps = ['plain', 'recipe']
    assert run(batch_size=sizes, steps=steps, out=str(tmp_path)) == 0
  assert made[:4] == [(n, 192, 192, 3) for n in (4, 4, 8, 8)]
  entries = json.loads((tmp_path / 'gpu_program.json').read_text())
  assert list(entries) == [
    f'{step} nfnet_f0 {n}' for n in (4, 8) for step in ('plain', 'recipe')
  ]
  page = (tmp_path / 'gpu_program.md').read_text()
  row = '| 8 of 192 | 1,172 | 170 | 1,000 | 6.50 | 3.00 | 1.00 | 2.50 | 1.00 |'
  assert f'| recipe | nfnet_f0 {row} 0.50 |' in page
  for size in (4, 8):
    flags = f'--model=nfnet_f0 --batch_size={size} --steps=plain,recipe\n'
    assert f'\npython -m scripts.gpu_program {flags}' in page
  assert page in capsys.readouterr().out


@needs_plugin
def test_a_gpu_updates_parameters_where_they_are():
  """Transposed in float32 for the update, each would be copied first."""
  config = tiny.config(precision='bfloat16', optimizer__clip='agc')
  with config.unlocked():
    config.data.train_image_size = 64
  train_step, shapes = plan.step_of(config.copy_and_resolve_references())
  found = gpu_program.account(train_step, shapes)
  weights = sum(
    leaf.size * 2 for leaf in jax.tree.leaves(shapes[0].params) if leaf.ndim > 1
  )
  assert found.kernels['convolution'] > 20
  # Rounded weights and their gradients are turned, read and written: 6 times
  # the weights' bytes. With float32 copies it was 18.
  assert found.bytes_accessed['transposition'] < 8 * weights
