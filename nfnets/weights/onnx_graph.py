"""An ONNX graph under construction.

Networks here are NHWC, ONNX's convolutions NCHW: an image tensor is turned
once, at the first convolution, and stays so until something needs the channels
last.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

OPSET = 17
IR_VERSION = 8  # the oldest that may hold this opset
FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)


class Value(NamedTuple):
  """A tensor of the graph, or a constant; `shape` is JAX's, channels last.

  `is_turned` says that the graph holds it with channels first.
  """

  shape: tuple[int, ...]
  name: str = ''
  constant: np.ndarray | None = None
  is_turned: bool = False


def constant(array: Any, dtype: Any = None) -> Value:
  """An array that is known while converting."""
  array = np.asarray(array, dtype)
  return Value(array.shape, '', array)


class Graph:
  """Nodes and constants; it imports onnx when it is made."""

  def __init__(self) -> None:
    import onnx

    self.onnx = onnx
    self.nodes = []
    self.initializers = []

  def node(
    self,
    operator: str,
    inputs: Sequence[str],
    shape: Sequence[int],
    is_turned: bool = False,
    **attributes: Any,
  ) -> Value:
    """Adds a node of one output, which it returns."""
    name = f't{len(self.nodes)}'
    made = self.onnx.helper.make_node(
      operator, list(inputs), [name], **attributes
    )
    self.nodes.append(made)
    return Value(tuple(shape), name, None, is_turned)

  def elementwise(
    self, operator: str, operands: Sequence[Value], shape: tuple[int, ...]
  ) -> Value:
    """A node whose output has its inputs' layout; turned wins over not."""
    turned = any(operand.is_turned for operand in operands)
    names = [self.tensor(operand, turned) for operand in operands]
    return self.node(operator, names, shape, turned)

  def tensor(self, value: Value, turned: bool = False) -> str:
    """The name of a value in the wanted layout, turned if need be."""
    if value.constant is not None:
      array = value.constant
      if turned and array.ndim == 4:
        array = array.transpose(FIRST)
      return self.initializer(array)
    if value.is_turned == turned:
      return value.name
    order = FIRST if turned else LAST
    return self.node('Transpose', [value.name], value.shape, perm=order).name

  def initializer(self, array: np.ndarray) -> str:
    """Stores an array in the file."""
    name = f'c{len(self.initializers)}'
    array = np.array(array, order='C')
    self.initializers.append(self.onnx.numpy_helper.from_array(array, name))
    return name

  def integers(self, *numbers: int) -> str:
    """Stores a vector of integers, as ONNX wants shapes and axes."""
    return self.initializer(np.array(numbers, np.int64))

  def model(self, images: Value, logits: Value, is_any_batch: bool) -> Any:
    """The graph as an `onnx.ModelProto` from 'images' to 'logits'."""
    helper = self.onnx.helper
    last = helper.make_node('Identity', [self.tensor(logits)], ['logits'])
    ends = []
    for name, shape in (('images', images.shape), ('logits', logits.shape)):
      shape = ('batch', *shape[1:]) if is_any_batch else shape
      kind = self.onnx.TensorProto.FLOAT
      ends.append(helper.make_tensor_value_info(name, kind, shape))
    graph = helper.make_graph(
      [*self.nodes, last], 'network', ends[:1], ends[1:], self.initializers
    )
    return helper.make_model(
      graph,
      opset_imports=[helper.make_opsetid('', OPSET)],
      ir_version=IR_VERSION,
      producer_name='nfnets',
    )
