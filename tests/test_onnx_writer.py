"""ONNX graphs against the functions that they are traced from."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from nfnets.models import activations, layers, network
from nfnets.weights import onnx_writer

pytest.importorskip('onnx', reason='pip install onnx')
onnxruntime = pytest.importorskip('onnxruntime')

SHAPE = (1, 7, 6, 4)
KERNEL = np.random.RandomState(1).randn(3, 3, 2, 6).astype(np.float32)
FUNCTIONS = {
  'grouped convolution': lambda x: layers.conv2d(x, KERNEL, 2, 2),
  'symmetric padding': lambda x: layers.conv2d(x, KERNEL, 2, 2, 'symmetric')[
    :, :4, :3
  ],
  'mean of the pixels there are': lambda x: hk.avg_pool(
    x, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME'
  ),
  'maximum': network.max_pool,
  'maximum, symmetric': lambda x: network.max_pool(x, 'symmetric'),
  'gate': lambda x: x * jax.nn.sigmoid(jnp.mean(x, (1, 2)))[:, None, None],
  'batch statistics': lambda x: (x - 0.5) * lax.rsqrt(jnp.square(x) + 1),
  'subsampling and zero channels': lambda x: jnp.pad(
    x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, 3))
  ),
}
# No network here uses their operations.
REFUSED = ('glu', 'log_softmax', 'log_sigmoid', 'softplus')


def run(function, images, is_any_batch=True):
  """Runs the sums over height and width in onnxruntime and in JAX."""

  def to_rows(x):
    return jnp.sum(function(x), (1, 2))

  traced = jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32)
  model = onnx_writer.convert(to_rows, traced, is_any_batch)
  session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=['CPUExecutionProvider']
  )
  (found,) = session.run(['logits'], {'images': images})
  return found, np.asarray(to_rows(images))


def images(batch=3):
  return np.random.RandomState(0).randn(batch, *SHAPE[1:]).astype(np.float32)


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_networks_pieces_are_written_for_any_batch(name):
  found, wanted = run(FUNCTIONS[name], images())
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  'name', [n for n in activations.GAMMAS if n not in REFUSED]
)
def test_activations_are_written(name):
  found, wanted = run(activations.get(name), images())
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', REFUSED)
def test_an_operation_without_a_rule_is_refused_in_a_line(name):
  with pytest.raises(ValueError, match='export as stablehlo') as error:
    run(activations.get(name), images())
  assert '\n' not in str(error.value)


def test_operations_on_constants_are_computed_in_advance():
  model = onnx_writer.convert(
    lambda x: jnp.sum(x * jnp.exp(jnp.arange(4.0))[None, None, None], (1, 2)),
    jax.ShapeDtypeStruct(SHAPE, np.float32),
    True,
  )
  kinds = [node.op_type for node in model.graph.node]
  assert kinds == ['Mul', 'ReduceSum', 'Identity']


@pytest.mark.parametrize(
  'function',
  [
    lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    lambda x: lax.conv_general_dilated(
      x, KERNEL, (1, 1), ((1, 1), (1, 1)), (2, 2), None,
      ('NHWC', 'HWIO', 'NHWC'), feature_group_count=2,
    ),
    lambda x: lax.scan(lambda x, _: (x + 1, None), x, length=2)[0],
    lambda x: jnp.broadcast_to(jnp.sum(x), x.shape),
  ],
)  # fmt: skip
def test_an_unexpected_form_is_refused_not_converted_wrongly(function):
  with pytest.raises(ValueError, match='export as stablehlo'):
    run(function, images(1), False)
