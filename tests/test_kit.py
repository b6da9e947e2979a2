"""Which layers a normalizer stands for."""

import numpy as np
import pytest

from nfnets.models import activations, layers
from nfnets.models import kit as kits


@pytest.mark.parametrize(
  'normalizer, conv, is_nf',
  [
    ('nf', layers.WSConv2D, True),
    ('batch', layers.Conv2D, False),
    ('none', layers.Conv2D, True),
  ],
)
def test_a_normalizer_chooses_the_convolution(normalizer, conv, is_nf):
  kit = kits.make(normalizer, 'relu', known=('nf', 'batch', 'none'))
  assert kit.conv.func is conv and kit.is_nf == is_nf
  gamma = activations.GAMMAS['relu'] if normalizer == 'nf' else 1
  assert float(kit.activation(np.float32(1))) == pytest.approx(gamma)


def test_squeeze_excite_s_activation_is_plain_relu_or_the_network_s():
  kit = kits.make('nf', 'gelu')
  x = np.float32(2)
  assert float(kits.se_activation('relu', kit)(x)) == 2
  network = kits.se_activation('network', kit)
  assert float(network(x)) == float(kit.activation(x))


@pytest.mark.parametrize(
  'arguments, words',
  [
    (('group', 'relu'), "no normalizer 'group': use nf or batch"),
    (('nf', 'relu', 'none'), "no ws_eps 'none'"),
    (('nf', 'relo'), 'did you mean relu'),
  ],
)
def test_an_unknown_choice_is_one_clear_line(arguments, words):
  with pytest.raises(ValueError, match=words):
    kits.make(*arguments)
