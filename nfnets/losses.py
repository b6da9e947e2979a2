"""Losses on soft labels, label smoothing, and top-k correctness.

N examples, K classes; everything is computed in float32.
"""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, soft_labels: jax.Array) -> jax.Array:
  """Softmax cross-entropy of each example, in nats.

  Args:
    logits: `[N, K]`.
    soft_labels: `[N, K]`, each row a distribution over the classes.

  Returns:
    `[N]`.
  """
  _check_same_shape(logits, soft_labels)
  log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
  return -jnp.sum(soft_labels * log_probs, axis=-1)


def sigmoid_cross_entropy(
  logits: jax.Array, soft_labels: jax.Array
) -> jax.Array:
  """Binary cross-entropies summed over the classes, in nats.

  Args:
    logits: `[N, K]`.
    soft_labels: `[N, K]`, each entry a probability of its own.

  Returns:
    `[N]`.
  """
  _check_same_shape(logits, soft_labels)
  logits = logits.astype(jnp.float32)
  log_p = jax.nn.log_sigmoid(logits)
  log_not_p = jax.nn.log_sigmoid(-logits)
  return -jnp.sum(soft_labels * log_p + (1 - soft_labels) * log_not_p, axis=-1)


def smooth(soft_labels: jax.Array, amount: float) -> jax.Array:
  """Mixes labels `[N, K]` with the uniform distribution.

  (1 - amount) y + amount / K, after any mixing of labels, as published.

  Raises:
    ValueError: if `amount` isn't in [0, 1].
  """
  if not 0 <= amount <= 1:
    raise ValueError(f'label smoothing must lie in [0, 1], got {amount}')
  return (1 - amount) * soft_labels + amount / soft_labels.shape[-1]


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Whether each label is among its example's k largest logits.

  Among equal logits the lower class index comes first; a NaN counts as larger
  than everything, and a label whose own logit is NaN as missed.

  Args:
    logits: `[N, K]`.
    labels: `[N]` integers in [0, K).
    k: how many guesses; with k >= K every finite label is found.

  Returns:
    `[N]` booleans.
  """
  if labels.shape != logits.shape[:1]:
    raise ValueError(
      f'labels {labels.shape} must be [N] for logits {logits.shape} [N, K]'
    )
  index = labels[:, None].astype(jnp.int32)
  own = jnp.take_along_axis(logits, index, axis=-1)
  classes = jnp.arange(logits.shape[-1])[None, :]
  ahead = ~(logits <= own) | ((logits == own) & (classes < index))
  found = jnp.sum(ahead, axis=-1) < k
  return found & ~jnp.isnan(own[:, 0])


def _check_same_shape(logits: jax.Array, soft_labels: jax.Array) -> None:
  if logits.shape != soft_labels.shape:
    raise ValueError(
      f'soft labels {soft_labels.shape} must have the shape of the logits '
      f'{logits.shape}, [N, K]'
    )
