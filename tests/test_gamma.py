"""Derived gammas agree with closed forms and the published constants."""

import math

import pytest

from nfnets.analysis import gamma
from nfnets.models import activations

# PAPER_FACTS 1.2: the exact values.
EXACT = {
  'relu': 1.7128586,
  'gelu': 1.700917,
  'gelu_erf': 1.700926,
  'silu': 1.787187,
  'elu': 1.270843,
  'leaky_relu': 1.704832,
  'sigmoid': 4.801313,
  'tanh': 1.592537,
}


@pytest.mark.parametrize('name, want', EXACT.items())
def test_gamma_is_the_exact_value(name, want):
  assert gamma.derive(name) == pytest.approx(want, abs=2e-6)


def test_glu_s_published_constant_is_a_tenth_of_a_per_cent_off():
  # E[sigmoid(z)^2] = Var + 1/4 with sigmoid's exact gamma.
  exact = 1 / math.sqrt(1 / EXACT['sigmoid'] ** 2 + 0.25)
  assert gamma.derive('glu') == pytest.approx(exact, rel=5e-4)
  assert activations.GAMMAS['glu'] == pytest.approx(exact, rel=1.2e-3)


def test_any_function_has_a_gamma():
  assert gamma.derive(lambda z: 3 * z + 2) == pytest.approx(1 / 3, rel=1e-6)
