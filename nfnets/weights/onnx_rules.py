"""A traced network as an ONNX graph: one rule for each operation it uses.

A rule takes the graph, the operands, the operation's parameters and the shape
of its result. Whatever depends on no input is computed while converting.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from nfnets.models import layers
from nfnets.weights.onnx_graph import FIRST, Graph, Value, constant

Values = list[Value]
Shape = tuple[int, ...]


def convert(
  function: Callable[[jax.Array], jax.Array],
  images: jax.ShapeDtypeStruct,
  is_any_batch: bool,
) -> Any:
  """Returns an `onnx.ModelProto` from 'images' to 'logits'.

  Args:
    function: `[N, H, W, C]` to `[N, K]`, float32.
    images: `[N, H, W, C]`; N is 1 for `is_any_batch`.
    is_any_batch: leave N open. That `function` treats each image alike is for
      the caller to check.

  Raises:
    ValueError: for an operation without a rule here.
    ImportError: without the package onnx.
  """
  with layers.traced_for('onnx'):  # whole convolutions
    closed = jax.make_jaxpr(function)(images)
  graph, start = Graph(), Value(images.shape, 'images')
  (logits,) = _run(graph, closed.jaxpr, closed.consts, [start])
  return graph.model(start, logits, is_any_batch)


def _run(
  graph: Graph, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Value]
) -> list[Value]:
  """Adds the nodes of a traced function; returns its outputs."""
  known = dict(zip(jaxpr.invars, inputs, strict=True))
  known |= dict(zip(jaxpr.constvars, map(constant, consts), strict=True))

  def read(atom: Any) -> Value:
    if isinstance(atom, Literal):
      return constant(atom.val, atom.aval.dtype)
    return known[atom]

  for equation in jaxpr.eqns:
    operands = [read(atom) for atom in equation.invars]
    outputs = _apply(graph, equation, operands)
    known |= dict(zip(equation.outvars, outputs, strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _apply(
  graph: Graph, equation: JaxprEqn, operands: list[Value]
) -> list[Value]:
  """One operation: looked into, computed at once, or a node by its rule."""
  primitive, params = equation.primitive, equation.params
  name = primitive.name
  if name in _CALLS:
    inner = params.get('jaxpr', params.get('call_jaxpr'))
    consts = getattr(inner, 'consts', ())
    return _run(graph, getattr(inner, 'jaxpr', inner), consts, operands)
  if all(operand.constant is not None for operand in operands):
    outputs = primitive.bind(*[x.constant for x in operands], **params)
    if not primitive.multiple_results:
      outputs = [outputs]
    return [constant(output) for output in outputs]
  shape = equation.outvars[0].aval.shape
  if name in _ELEMENTWISE:
    return [graph.elementwise(_ELEMENTWISE[name], operands, shape)]
  if name not in _RULES:
    raise ValueError(f'no rule to write {name} as ONNX: choose stablehlo')
  return [_RULES[name](graph, operands, params, shape)]


def _conv(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
  images, weights = xs
  _require(params['dimension_numbers'].lhs_spec == FIRST, 'NHWC')
  _require(weights.constant is not None, 'weights that no input changes')
  _require(params['batch_group_count'] == 1, 'groups of channels')
  _require(set(params['lhs_dilation']) == {1}, 'a forward convolution')
  kernel = graph.initializer(weights.constant.transpose(3, 2, 0, 1))
  return graph.node(
    'Conv',
    [graph.tensor(images, True), kernel],
    shape,
    is_turned=True,
    strides=params['window_strides'],
    pads=_begins_and_ends(params['padding']),
    dilations=params['rhs_dilation'],
    group=params['feature_group_count'],
  )


def _pool(
  operator: str, graph: Graph, x: Value, params: dict, shape: Shape, **more: Any
) -> Value:
  window, strides = params['window_dimensions'], params['window_strides']
  dilations = {*params['base_dilation'], *params['window_dilation']}
  _require(dilations == {1}, 'windows without holes')
  _require(window[0] == window[3] == strides[0] == strides[3] == 1, 'NHWC')
  return graph.node(
    operator,
    [graph.tensor(x, True)],
    shape,
    is_turned=True,
    kernel_shape=window[1:3],
    strides=strides[1:3],
    pads=_begins_and_ends(params['padding'][1:3]),
    **more,
  )


def _window_max(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
  return _pool('MaxPool', graph, xs[0], params, shape)


def _window_sum(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
  mean = _pool('AveragePool', graph, xs[0], params, shape, count_include_pad=1)
  count = constant(math.prod(params['window_dimensions']), np.float32)
  return graph.elementwise('Mul', [mean, count], shape)


def _sum(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
  (x,) = xs
  axes = params['axes']
  if x.is_turned:
    # What is left keeps its order: the batch, then the channels.
    _require(set(axes) >= {1, 2}, 'a sum over height and width')
    axes = [FIRST.index(axis) for axis in axes]
  return graph.node(
    'ReduceSum', [x.name, graph.integers(*axes)], shape, keepdims=0
  )


def _matmul(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
  (left, right), batches = params['dimension_numbers']
  last = len(xs[0].shape) - 1
  _require(
    (tuple(left), tuple(right)) == ((last,), (0,)) and not any(batches),
    'a product of rows and columns',
  )
  return graph.node('MatMul', [graph.tensor(x) for x in xs], shape)


def _reshape(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
  (x,) = xs
  _require(shape[:1] == x.shape[:1], 'the batch in its place')
  _require(math.prod(shape) == math.prod(x.shape), 'no repetition')
  # 0 stands for the input's own size: the batch, whatever it is.
  target = graph.integers(0, *shape[1:])
  return graph.node('Reshape', [graph.tensor(x), target], shape)


def _pad(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
  x, value = xs
  config = params['padding_config']
  _require(all(inner == 0 for _, _, inner in config), 'padding outside alone')
  _require(value.constant is not None, 'a constant to pad with')
  pads = [(low, high) for low, high, _ in config]
  if x.is_turned:
    pads = [pads[axis] for axis in FIRST]
  pads = graph.integers(*_begins_and_ends(pads))
  fill = graph.tensor(value)
  return graph.node('Pad', [x.name, pads, fill], shape, x.is_turned)


def _slice(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
  (x,) = xs
  starts, limits = params['start_indices'], params['limit_indices']
  steps = params['strides'] or (1,) * len(starts)
  # The batch must stay out of it, since it may be any.
  axes = [
    axis
    for axis, size in enumerate(x.shape)
    if (starts[axis], limits[axis], steps[axis]) != (0, size, 1)
  ]
  if not axes:
    return x
  places = [FIRST.index(axis) if x.is_turned else axis for axis in axes]
  inputs = [x.name]
  for numbers in (starts, limits):
    inputs.append(graph.integers(*[numbers[axis] for axis in axes]))
  inputs.append(graph.integers(*places))
  inputs.append(graph.integers(*[steps[axis] for axis in axes]))
  return graph.node('Slice', inputs, shape, x.is_turned)


def _power(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
  _require(params['y'] > 0, 'a positive power')
  result = xs[0]
  for _ in range(params['y'] - 1):
    result = graph.elementwise('Mul', [result, xs[0]], shape)
  return result


def _select(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
  condition, *cases = xs
  _require(len(cases) == 2, 'a choice of two')
  return graph.elementwise('Where', [condition, *reversed(cases)], shape)


def _chain(*operators: str) -> Callable[..., Value]:
  """A rule of one operator after another."""

  def rule(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
    (result,) = xs
    one = constant(1, np.float32)
    for operator in operators:
      inputs = {
        'x - 1': ('Sub', [result, one]),
        '1 - x': ('Sub', [one, result]),
        '1 + x': ('Add', [one, result]),
        'x * x': ('Mul', [result, result]),
      }.get(operator, (operator, [result]))
      result = graph.elementwise(*inputs, shape)
    return result

  return rule


def _same(graph: Graph, xs: Values, params: dict, shape: Shape) -> Value:
  wanted = params.get('new_dtype', np.float32)
  _require(wanted == np.float32, 'float32 throughout')
  return xs[0]


def _begins_and_ends(pads: Sequence[tuple[int, int]]) -> list[int]:
  return [int(low) for low, _ in pads] + [int(high) for _, high in pads]


def _require(holds: bool, what: str) -> None:
  if not holds:
    raise ValueError(f'ONNX is written of {what}: choose stablehlo')


_CALLS = (
  'checkpoint', 'remat2', 'custom_jvp_call', 'custom_vjp_call', 'jit', 'pjit',
)  # fmt: skip
_ELEMENTWISE = {
  'abs': 'Abs',
  'add': 'Add',
  'div': 'Div',
  'erf': 'Erf',
  'exp': 'Exp',
  'ge': 'GreaterOrEqual',
  'gt': 'Greater',
  'le': 'LessOrEqual',
  'log': 'Log',
  'logistic': 'Sigmoid',
  'lt': 'Less',
  'max': 'Max',
  'min': 'Min',
  'mul': 'Mul',
  'neg': 'Neg',
  'sqrt': 'Sqrt',
  'sub': 'Sub',
  'tanh': 'Tanh',
}
_RULES = {
  'broadcast_in_dim': _reshape,
  'conv_general_dilated': _conv,
  'convert_element_type': _same,
  'copy': _same,
  'dot_general': _matmul,
  'erfc': _chain('Erf', '1 - x'),
  'expm1': _chain('Exp', 'x - 1'),
  'integer_pow': _power,
  'log1p': _chain('1 + x', 'Log'),
  'pad': _pad,
  'reduce_sum': _sum,
  'reduce_window_max': _window_max,
  'reduce_window_sum': _window_sum,
  'reshape': _reshape,
  'rsqrt': _chain('Sqrt', 'Reciprocal'),
  'select_n': _select,
  'slice': _slice,
  'square': _chain('x * x'),
  'squeeze': _reshape,
}
