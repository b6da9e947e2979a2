"""What the papers' rules give for another batch size."""

import dataclasses

from nfnets import variants


@dataclasses.dataclass(frozen=True)
class Rule:
  """One number of a recipe and where it comes from."""

  quantity: str
  value: str
  rule: str


def for_batch_size(
  name: str, batch_size: int, num_train: int, num_epochs: float
) -> list[Rule]:
  """The recipe of a model at a batch size.

  Args:
    name: a key of `variants.ALL`.
    batch_size: global, in images.
    num_train: examples in an epoch.
    num_epochs: of the whole run.

  Raises:
    ValueError: for an unknown name, or a batch larger than the training set.
  """
  variants.find(name)
  if not 0 < batch_size <= num_train:
    raise ValueError(
      f'batch_size={batch_size}: choose 1 to {num_train}, the training set.'
    )
  steps = int(num_train * num_epochs // batch_size)
  warmup = round(num_train * 5 / batch_size)
  return [
    _learning_rate(name, batch_size),
    Rule(
      'warm-up steps',
      f'{warmup:,} of {steps:,}',
      f'5 epochs of {num_epochs:g}, linear from 0 (paper A, A.1; '
      'experiment_nfnets.py:36-39)',
    ),
    _clipping(name, batch_size),
    _ema(name, steps),
  ]


def _learning_rate(name: str, batch_size: int) -> Rule:
  if name in variants.NF_REGNET:
    return Rule(
      'learning rate',
      '0.4',
      'not scaled: 0.4, published at batch 1,024 (experiment_nf_regnets.py)',
    )
  if name in variants.CIFAR_RESNET:
    return Rule(
      'learning rate',
      '0.1',
      'He et al., section 4.2: 0.1 at batch 128; they give no rule to scale it',
    )
  return Rule(
    'learning rate',
    f'{0.1 * batch_size / 256:g}',
    '0.1 x batch size / 256 (paper A, A.1)',
  )


def _clipping(name: str, batch_size: int) -> Rule:
  if name not in variants.NFNET | variants.NF_RESNET:
    return Rule('lambda (AGC)', 'none', 'its published recipe has no AGC')
  if batch_size < 1024:
    value = '0.01 to 0.08'
    rule = (
      'the smaller the batch, the larger lambda may be (paper A, 4.1); it '
      'tested 0.01, 0.02, 0.04, 0.08, 0.16 and names none below 1,024'
    )
  elif batch_size <= 4096:
    value, rule = '0.01', 'recommended for batches of 1,024 to 4,096 (paper A)'
  else:
    value = 'below 0.01'
    rule = 'larger batches need a smaller lambda (paper A, 4.1); none is named'
  return Rule('lambda (AGC)', value, rule)


def _ema(name: str, steps: int) -> Rule:
  if name not in variants.NFNET | variants.NF_REGNET:
    return Rule('EMA decay', 'none', 'its published recipe has no EMA')
  # (1 + t) / (10 + t) reaches 0.99999 at t = 899,990.
  end = min(0.99999, (1 + steps) / (10 + steps))
  return Rule(
    'EMA decay',
    f'{end:.6f} at the end',
    'min(0.99999, (1 + t) / (10 + t)) at step t (utils.py:73-76); the first '
    'bound is reached after 899,990 steps, before that the average covers '
    'about the last ninth of the run at any batch size',
  )
