"""An ONNX graph's layouts: turned once, and back where need be."""

import numpy as np
import pytest

from nfnets.weights import onnx_graph

pytest.importorskip('onnx', reason='pip install -r requirements-export.txt')
onnxruntime = pytest.importorskip('onnxruntime')

IMAGES = onnx_graph.Value((2, 3, 5, 4), 'images')


def run(graph, result):
  model = graph.model(IMAGES, result, False)
  session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=['CPUExecutionProvider']
  )
  array = np.random.RandomState(0).rand(2, 3, 5, 4).astype(np.float32)
  return array, session.run(['logits'], {'images': array})[0]


def test_operands_of_two_layouts_meet_in_one():
  graph = onnx_graph.Graph()
  turned = onnx_graph.Value(
    IMAGES.shape, graph.tensor(IMAGES, True), None, True
  )
  scales = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
  scaled = graph.elementwise(
    'Mul', [turned, onnx_graph.constant(scales)], IMAGES.shape
  )
  assert scaled.is_turned
  result = graph.elementwise('Add', [IMAGES, scaled], IMAGES.shape)
  array, found = run(graph, result)
  np.testing.assert_allclose(found, array + array * scales, rtol=1e-6)


def test_nothing_is_turned_without_need():
  graph = onnx_graph.Graph()
  result = graph.elementwise('Exp', [IMAGES], IMAGES.shape)
  assert [node.op_type for node in graph.nodes] == ['Exp']
  array, found = run(graph, result)
  np.testing.assert_allclose(found, np.exp(array), rtol=1e-6)
