"""A loop and its unrolled form give the same, each where it is fast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import loops

XS = {'a': np.arange(5.0, dtype=np.float32), 'b': np.ones((5, 2), np.float32)}


def body(carry, x):
  carry = {'sum': carry['sum'] * 0.9 + x['a'], 'count': carry['count'] + 1}
  return carry, carry['sum'] * x['b']


def start():
  return {'sum': jnp.float32(0), 'count': jnp.int32(0)}


@pytest.mark.parametrize('jit', [False, True])
def test_it_is_a_scan(jit):
  run = lambda xs: loops.scan(body, start(), xs)
  got = (jax.jit(run) if jit else run)(XS)
  jax.tree.map(
    np.testing.assert_array_equal, got, jax.lax.scan(body, start(), XS)
  )
  total = 0.0
  for number in range(5):
    total = total * 0.9 + number
    np.testing.assert_allclose(got[1][number], [total, total], rtol=1e-6)


@pytest.mark.parametrize(
  ('platform', 'whiles'), [('cpu', 0), ('cuda', 1), ('tpu', 1)]
)
def test_only_a_cpus_program_is_unrolled(platform, whiles):
  traced = jax.jit(lambda xs: loops.scan(body, start(), xs)).trace(XS)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert text.count('stablehlo.while') == whiles


def test_the_body_is_traced_once_however_many_turns():
  traces = []

  def counted(carry, x):
    traces.append(1)
    return body(carry, x)

  jax.make_jaxpr(lambda xs: loops.scan(counted, start(), xs))(XS)
  assert len(traces) == 2  # once for each form


def test_several_steps_are_as_many_single_ones_one_after_the_other():
  def step(state, batch, key):
    return state + batch['ids'].sum(), {'loss': state * key}

  ids = np.arange(6.0, dtype=np.float32)
  state, metrics = loops.several(step, 3)(jnp.float32(1), {'ids': ids}, 2.0)
  assert float(state) == 16
  assert metrics['loss'].tolist() == [2, 4, 14]  # 1, 1 + 0 + 1, 2 + 2 + 3
  assert loops.several(step, 1) is step
