"""AGC before somebody else's optimizer, on a network that isn't ours."""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from nfnets.optim import adaptive_grad_clip


def main():
  digits = load_digits()
  images, labels = digits.data / 16.0, digits.target
  keys = jax.random.split(jax.random.key(0))
  params = {
    'hidden': {'kernel': jax.random.normal(keys[0], (64, 128)) / 8},
    'logits': {'kernel': jax.random.normal(keys[1], (128, 10)) / 11},
  }

  def loss_fn(params):
    hidden = jax.nn.relu(images @ params['hidden']['kernel'])
    logits = hidden @ params['logits']['kernel']
    return optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, jnp.asarray(labels)
    ).mean()

  optimizer = optax.chain(
    adaptive_grad_clip(clipping=0.01, unclipped=['logits']),
    optax.adam(1e-3),
  )
  opt_state = optimizer.init(params)

  @jax.jit
  def train_step(params, opt_state):
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  for step in range(101):
    params, opt_state, loss = train_step(params, opt_state)
    if step % 20 == 0:
      print(f'step {step:3d}  loss {loss:.3f}')


if __name__ == '__main__':
  main()
