"""Both sides of the gate compute the same, in different forms."""

import jax
import numpy as np
import pytest

from configs import cifar_resnet20
from nfnets.bench import gate
from nfnets.models import convolution

CASE = gate.Case('cifar_resnet_20', 2, 8, 'train', {'depths': (1, 1, 1)})


@pytest.mark.parametrize('groups', [1, 2])
def test_the_plain_form_is_the_same_function_and_gradient(groups):
  random = np.random.RandomState(0)
  images = random.randn(2, 7, 7, 4).astype(np.float32)
  weights = random.randn(3, 3, 4 // groups, 6).astype(np.float32)

  def run(form):
    loss = lambda x, w: (form(x, w, (2, 2), groups) ** 2).sum()
    return jax.value_and_grad(loss, (0, 1))(images, weights)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    run(gate.plain),
    run(convolution.conv2d),
  )


def test_within_the_block_networks_use_it_and_afterwards_ours_again():
  ours = convolution.conv2d
  with pytest.raises(KeyError), gate.plainly():
    assert convolution.conv2d is gate.plain
    raise KeyError
  assert convolution.conv2d is ours


@pytest.mark.slow
def test_it_prints_a_ratio_of_each_case():
  found = gate.measure(
    lambda _: cifar_resnet20.get_config(), 2, 0.01, {'tiny': CASE}
  )
  ratio = found['tiny']
  assert 0 < ratio['low'] <= ratio['median'] <= ratio['high']
  assert f'| {ratio["median"]:.2f} |' in ' '.join(gate.page(found).split())
