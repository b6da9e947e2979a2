"""Converts a traced network to an ONNX graph, with a rule for each operation.

Tensors are NHWC, as in the network. ONNX's convolutions and pools are NCHW and
get a Transpose before and after, which onnxruntime moves through the graph and
cancels. Operations that don't depend on the images are computed here.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from nfnets.models import layers

OPSET = 17
IR_VERSION = 8  # the oldest that may hold this opset
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)

Value = str | np.ndarray  # a tensor's name in the graph, or a constant


def convert(
  function: Callable[[jax.Array], jax.Array],
  images: jax.ShapeDtypeStruct,
  is_any_batch: bool,
) -> Any:
  """Returns an `onnx.ModelProto` from 'images' to 'logits'.

  Args:
    function: maps `[N, H, W, C]` to `[N, K]`, float32.
    images: the shape `[N, H, W, C]`; N is 1 if `is_any_batch`.
    is_any_batch: leave N open; the caller must check that `function` works for
      any batch size.

  Raises:
    ValueError: an operation has no rule here.
    ImportError: onnx isn't installed.
  """
  with layers.traced_for('onnx'):  # convolutions as single operations
    closed = jax.make_jaxpr(function)(images)
  graph = _Graph()
  (logits,) = _run(graph, closed.jaxpr, closed.consts, ['images'])
  shapes = images.shape, closed.out_avals[0].shape
  if is_any_batch:
    shapes = [('batch', *shape[1:]) for shape in shapes]
  return graph.model(logits, *shapes)


class _Graph:
  """The nodes and constants of a graph; needs onnx only when created."""

  def __init__(self) -> None:
    import onnx

    self.onnx = onnx
    self.nodes = []
    self.constants = []

  def add(self, operator: str, *inputs: Value, **attributes: Any) -> str:
    """Adds a node and returns the name of its output."""
    name = f't{len(self.nodes)}'
    names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
    self.nodes.append(
      self.onnx.helper.make_node(operator, names, [name], **attributes)
    )
    return name

  def constant(self, array: Any) -> str:
    """Adds a constant and returns its name."""
    name = f'c{len(self.constants)}'
    array = np.array(array, order='C')
    self.constants.append(self.onnx.numpy_helper.from_array(array, name))
    return name

  def add_nchw(self, operator: str, x: Value, *more: Value, **how: Any) -> str:
    """Adds an NCHW node between NHWC tensors."""
    x = self.add('Transpose', x, perm=_TO_NCHW)
    x = self.add(operator, x, *more, **how)
    return self.add('Transpose', x, perm=_TO_NHWC)

  def model(self, logits: Value, *shapes: Sequence[int | str]) -> Any:
    """The graph as an `onnx.ModelProto` with these input and output shapes."""
    helper = self.onnx.helper
    last = helper.make_node('Identity', [logits], ['logits'])
    start, end = (
      helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape)
      for name, shape in zip(('images', 'logits'), shapes, strict=True)
    )
    graph = helper.make_graph(
      [*self.nodes, last], 'network', [start], [end], self.constants
    )
    return helper.make_model(
      graph,
      opset_imports=[helper.make_opsetid('', OPSET)],
      ir_version=IR_VERSION,
      producer_name='nfnets',
    )


def _run(
  graph: _Graph, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Value]
) -> list[Value]:
  """Adds the nodes of a traced function and returns its outputs."""
  known = dict(zip(jaxpr.invars, inputs, strict=True))
  known |= dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))

  def read(atom: Any) -> Value:
    if isinstance(atom, Literal):
      return np.asarray(atom.val, atom.aval.dtype)
    return known[atom]

  for equation in jaxpr.eqns:
    operands = [read(atom) for atom in equation.invars]
    outputs = _apply(graph, equation, operands)
    known |= dict(zip(equation.outvars, outputs, strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _apply(
  graph: _Graph, equation: JaxprEqn, operands: list[Value]
) -> list[Value]:
  """Adds an operation: an inner function, a constant, or a node by its rule."""
  primitive, params = equation.primitive, equation.params
  name = primitive.name
  if name in _CALLS:
    inner = params.get('jaxpr', params.get('call_jaxpr'))
    consts = getattr(inner, 'consts', ())
    return _run(graph, getattr(inner, 'jaxpr', inner), consts, operands)
  if not any(isinstance(operand, str) for operand in operands):
    outputs = primitive.bind(*operands, **params)
    return [
      np.asarray(x)
      for x in (outputs if primitive.multiple_results else [outputs])
    ]
  if name in _ELEMENTWISE:
    return [graph.add(_ELEMENTWISE[name], *operands)]
  if name not in _RULES:
    raise ValueError(f'no rule to convert {name} to ONNX: export as stablehlo')
  return [_RULES[name](graph, operands, equation)]


def _conv(graph: _Graph, xs: list, eqn: JaxprEqn) -> str:
  images, weights = xs
  _require(eqn.params['dimension_numbers'].lhs_spec == _TO_NCHW, 'NHWC')
  _require(not isinstance(weights, str), 'constant weights')
  _require(eqn.params['batch_group_count'] == 1, 'groups of channels')
  _require(set(eqn.params['lhs_dilation']) == {1}, 'no transposed convolution')
  return graph.add_nchw(
    'Conv',
    images,
    weights.transpose(3, 2, 0, 1),
    strides=eqn.params['window_strides'],
    pads=_begins_and_ends(eqn.params['padding']),
    dilations=eqn.params['rhs_dilation'],
    group=eqn.params['feature_group_count'],
  )


def _pool(
  operator: str, graph: _Graph, xs: list, eqn: JaxprEqn, **more: Any
) -> str:
  window, strides = (
    eqn.params['window_dimensions'],
    eqn.params['window_strides'],
  )
  dilations = {*eqn.params['base_dilation'], *eqn.params['window_dilation']}
  _require(dilations == {1}, 'undilated windows')
  _require(window[0] == window[3] == strides[0] == strides[3] == 1, 'NHWC')
  return graph.add_nchw(
    operator,
    xs[0],
    kernel_shape=window[1:3],
    strides=strides[1:3],
    pads=_begins_and_ends(eqn.params['padding'][1:3]),
    **more,
  )


def _window_sum(graph: _Graph, xs: list, eqn: JaxprEqn) -> str:
  mean = _pool('AveragePool', graph, xs, eqn, count_include_pad=1)
  count = math.prod(eqn.params['window_dimensions'])
  return graph.add('Mul', mean, np.float32(count))


def _sum(graph: _Graph, xs: list, eqn: JaxprEqn) -> str:
  return graph.add('ReduceSum', xs[0], np.int64(eqn.params['axes']), keepdims=0)


def _matmul(graph: _Graph, xs: list, eqn: JaxprEqn) -> str:
  (left, right), batches = eqn.params['dimension_numbers']
  last = len(eqn.invars[0].aval.shape) - 1
  _require(
    (tuple(left), tuple(right)) == ((last,), (0,)) and not any(batches),
    'a plain matrix product',
  )
  return graph.add('MatMul', *xs)


def _reshape(graph: _Graph, xs: list, eqn: JaxprEqn) -> str:
  old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
  _require(new[:1] == old[:1], 'the batch as the first axis')
  _require(math.prod(new) == math.prod(old), 'no repetition')
  # 0 means the input's own size, here that of the batch.
  return graph.add('Reshape', xs[0], np.int64((0, *new[1:])))


def _pad(graph: _Graph, xs: list, eqn: JaxprEqn) -> str:
  config = eqn.params['padding_config']
  _require(all(inner == 0 for _, _, inner in config), 'no interior padding')
  _require(not isinstance(xs[1], str), 'a constant padding value')
  pads = _begins_and_ends([(low, high) for low, high, _ in config])
  return graph.add('Pad', xs[0], np.int64(pads), xs[1])


def _slice(graph: _Graph, xs: list, eqn: JaxprEqn) -> Value:
  starts, limits = eqn.params['start_indices'], eqn.params['limit_indices']
  steps = eqn.params['strides'] or (1,) * len(starts)
  # Only the axes that change: the batch's size may be open.
  axes = [
    axis
    for axis, size in enumerate(eqn.invars[0].aval.shape)
    if (starts[axis], limits[axis], steps[axis]) != (0, size, 1)
  ]
  if not axes:
    return xs[0]
  chosen = [np.int64([x[axis] for axis in axes]) for x in (starts, limits)]
  step = np.int64([steps[axis] for axis in axes])
  return graph.add('Slice', xs[0], *chosen, np.int64(axes), step)


def _power(graph: _Graph, xs: list, eqn: JaxprEqn) -> Value:
  _require(eqn.params['y'] > 0, 'a positive exponent')
  result = xs[0]
  for _ in range(eqn.params['y'] - 1):
    result = graph.add('Mul', result, xs[0])
  return result


def _select(graph: _Graph, xs: list, eqn: JaxprEqn) -> str:
  _require(len(xs) == 3, 'a selection between two')
  return graph.add('Where', xs[0], xs[2], xs[1])


def _same(graph: _Graph, xs: list, eqn: JaxprEqn) -> Value:
  wanted = eqn.params.get('new_dtype', np.float32)
  _require(wanted == np.float32, 'float32 throughout')
  return xs[0]


def _composed(function: Callable[[_Graph, Value], str]) -> Callable[..., str]:
  """A rule for an operation of one operand, composed of ONNX operators."""
  return lambda graph, xs, eqn: function(graph, xs[0])


def _begins_and_ends(pads: Sequence[tuple[int, int]]) -> list[int]:
  return [int(low) for low, _ in pads] + [int(high) for _, high in pads]


def _require(holds: bool, what: str) -> None:
  if not holds:
    raise ValueError(f'conversion to ONNX needs {what}: export as stablehlo')


_ONE = np.float32(1)
_CALLS = (
  'checkpoint',
  'remat2',
  'custom_jvp_call',
  'custom_vjp_call',
  'jit',
  'pjit',
)
_ELEMENTWISE = {
  'abs': 'Abs', 'add': 'Add', 'div': 'Div', 'erf': 'Erf', 'exp': 'Exp',
  'ge': 'GreaterOrEqual', 'gt': 'Greater', 'le': 'LessOrEqual', 'log': 'Log',
  'logistic': 'Sigmoid', 'lt': 'Less', 'max': 'Max', 'min': 'Min', 'mul': 'Mul',
  'neg': 'Neg', 'sqrt': 'Sqrt', 'sub': 'Sub', 'tanh': 'Tanh',
}  # fmt: skip
_RULES = {
  'broadcast_in_dim': _reshape,
  'conv_general_dilated': _conv,
  'convert_element_type': _same,
  'copy': _same,
  'dot_general': _matmul,
  'erfc': _composed(lambda g, x: g.add('Sub', _ONE, g.add('Erf', x))),
  'expm1': _composed(lambda g, x: g.add('Sub', g.add('Exp', x), _ONE)),
  'integer_pow': _power,
  'log1p': _composed(lambda g, x: g.add('Log', g.add('Add', _ONE, x))),
  'pad': _pad,
  'reduce_sum': _sum,
  'reduce_window_max': functools.partial(_pool, 'MaxPool'),
  'reduce_window_sum': _window_sum,
  'reshape': _reshape,
  'rsqrt': _composed(lambda g, x: g.add('Reciprocal', g.add('Sqrt', x))),
  'select_n': _select,
  'slice': _slice,
  'square': _composed(lambda g, x: g.add('Mul', x, x)),
  'squeeze': _reshape,
}
