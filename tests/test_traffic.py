"""What a compiled program moves: copies once, tiles whole, pieces as pieces."""

import jax
import numpy as np
import pytest

from nfnets import traffic

# Of 64 kB on a TPU: it comes into on-chip memory in two pieces that lie side by
# side then, is doubled there, and the result is copied back.
ON_CHIP = """
ENTRY %main (x: f32[128,128]) -> f32[128,128] {
  %x = f32[128,128]{1,0:T(8,128)} parameter(0)
  %slice-start = ((f32[128,128]{1,0:T(8,128)}), f32[64,128]{1,0:T(8,128)S(1)}, \
s32[]{:S(2)}) slice-start(%x), slice={[0:64], [0:128]}
  %slice-start.1 = ((f32[128,128]{1,0:T(8,128)}), \
f32[64,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[64:128]}
  %slice-done = f32[64,128]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %slice-done.1 = f32[64,128]{1,0:T(8,128)S(1)} slice-done(%slice-start.1)
  %whole = f32[128,128]{1,0:T(8,128)S(1)} custom-call(%slice-done, \
%slice-done.1), custom_call_target="ConcatBitcast", backend_config={}
  %double = f32[128,128]{1,0:T(8,128)S(1)} fusion(%whole), kind=kLoop, calls=%f
  %copy-start = (f32[128,128]{1,0:T(8,128)}, f32[128,128]{1,0:T(8,128)S(1)}, \
u32[]{:S(2)}) copy-start(%double)
  ROOT %copy-done = f32[128,128]{1,0:T(8,128)} copy-done(%copy-start)
}
"""
ARRAY = 128 * 128 * 4

FUSION = """
%cut (p: f32[9,8], q: f32[8]) -> f32[8] {
  %p = f32[9,8]{1,0} parameter(0)
  %q = f32[8]{0} parameter(1)
  %row = f32[1,8]{1,0} slice(%p), slice={[0:1], [0:8]}
  %flat = f32[8]{0} bitcast(%row)
  ROOT %sum = f32[8]{0} add(%flat, %q)
}

ENTRY %main (x: f32[9,8], y: f32[8]) -> f32[8] {
  %x = f32[9,8]{1,0} parameter(0)
  %y = f32[8]{0} parameter(1)
  ROOT %fusion = f32[8]{0} fusion(%x, %y), kind=kLoop, calls=%cut
}
"""


def test_copies_to_on_chip_memory_pass_hbm_once_and_compute_nothing():
  assert traffic.of(ON_CHIP) == (2 * ARRAY, 2 * ARRAY)
  without = ON_CHIP.replace('S(1)', '')  # pieces and copies all in HBM
  assert traffic.of(without) == (2 * ARRAY, (2 + 2 + 2) * ARRAY)


@pytest.mark.parametrize(
  ('shape', 'padded'),
  [
    ('bf16[3,100]{1,0}', 3 * 100 * 2),
    ('bf16[3,100]{1,0:T(8,128)(2,1)}', 8 * 128 * 2),
    # The densest axis is the last but one.
    ('f32[2,9,100,16]{2,1,3,0:T(8,128)}', 2 * 16 * 128 * 16 * 4),
    ('f32[300]{0:T(256)}', 512 * 4),
    ('f32[]{:T(128)}', 4),
  ],
)
def test_arrays_are_padded_to_their_tiles(shape, padded):
  text = f'ENTRY %m () -> s {{\n  ROOT %i = {shape} iota(), dimension=0\n}}\n'
  assert traffic.of(text) == (padded, padded)


def test_of_what_a_fusion_only_cuts_from_the_pieces_count():
  assert traffic.of(FUSION).hbm == (8 + 8 + 8) * 4
  whole = FUSION.replace('slice(%p), slice={[0:1], [0:8]}', 'negate(%p)')
  assert traffic.of(whole).hbm == (9 * 8 + 8 + 8) * 4


@pytest.mark.parametrize('operation', ['while', 'conditional', 'call'])
def test_loops_and_branches_are_not_counted(operation):
  assert traffic.of(FUSION.replace(' fusion(', f' {operation}(')) is None


def test_without_tiles_it_is_what_the_compiler_counts():
  side = 128
  shapes = 3 * [jax.ShapeDtypeStruct((side, side), np.float32)]
  made = jax.jit(lambda a, b, c: a @ b @ c).lower(*shapes).compile()
  found = traffic.of(made.as_text())
  assert found.operations == found.hbm == 2 * 3 * side**2 * 4
  assert made.cost_analysis()['bytes accessed'] == found.hbm
