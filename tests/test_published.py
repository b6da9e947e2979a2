"""The published step, from a checkout that stands in for the published code."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

import nfnets
from nfnets import parallel
from nfnets.bench import programs, published, step_time, versus

BASE = 'widths = {"F0": 4, "F1+": 8}\n'
NETWORK = """
import haiku as hk
from nfnets import base

class NFNet(hk.Module):
  variant_dict = base.widths

  def __init__(self, num_classes, variant, stochdepth_rate):
    super().__init__(name="NFNet")
    assert stochdepth_rate == 0.25
    self.hidden = hk.Linear(base.widths[variant])
    self.fc = hk.Linear(num_classes)

  def __call__(self, x, is_training):
    hidden = self.hidden(x.mean([1, 2]))
    two = hk.initializers.Constant(2)
    gain = hk.get_parameter("gain", (), x.dtype, init=two)
    return {"logits": self.fc(hidden * gain)}
"""


@pytest.fixture
def checkout(tmp_path):
  (tmp_path / 'base.py').write_text(BASE)
  (tmp_path / 'nfnet.py').write_text(NETWORK)
  return str(tmp_path)


def recipe_of(_):
  config = tiny.config(eval_batch_size=16)
  config.unlock()
  return config


def filled(shapes):
  params = programs.filled(shapes[0].params)
  state = published.State(params, jax.tree.map(np.zeros_like, params))
  random = np.random.RandomState(0)
  images = random.randn(*shapes[1]['images'].shape).astype(np.float32)
  labels = np.arange(len(images), dtype=np.int32)
  return state, {'images': images, 'labels': labels}


def test_the_code_is_run_under_its_own_name_and_leaves_no_module(checkout):
  _, shapes = published.step_of(checkout, 'nfnet_f1_plus', 2, 8, 'float32')
  assert shapes[0].params['NFNet/~/linear']['w'].shape == (3, 8)
  assert shapes[1]['images'].shape == (2, 8, 8, 3)
  assert not {'nfnets.base', 'nfnets.nfnet'} & set(sys.modules)
  assert not hasattr(nfnets, 'base')
  _, shapes = published.step_of(checkout, 'nfnet_f0', 2, 0, 'float32')
  assert shapes[1]['images'].shape == (2, 192, 192, 3)


def test_a_forks_own_module_of_the_same_name_is_left_alone(
  checkout, monkeypatch
):
  own = types.ModuleType('nfnets.base')
  monkeypatch.setitem(sys.modules, 'nfnets.base', own)
  monkeypatch.setattr(nfnets, 'base', own, raising=False)
  _, shapes = published.step_of(checkout, 'nfnet_f0', 2, 8, 'float32')
  assert shapes[0].params['NFNet/~/linear']['w'].shape == (3, 4)
  assert sys.modules['nfnets.base'] is own and nfnets.base is own


def test_what_is_not_there_is_named(checkout, tmp_path):
  with pytest.raises(ValueError, match=r'no variant F2, only F0, F1\+'):
    published.network(checkout, 'nfnet_f2')
  with pytest.raises(ValueError, match="no precision 'fp16'"):
    published.step_of(checkout, 'nfnet_f0', 2, 8, 'fp16')
  with pytest.raises(ValueError, match='resnet_50: the published step'):
    published.network(checkout, 'resnet_50')
  with pytest.raises(ValueError, match='no --published=FOLDER'):
    published.network('', 'nfnet_f0')
  (tmp_path / 'nfnet.py').write_text('')
  with pytest.raises(ValueError, match='no variant F0, only none'):
    published.network(checkout, 'nfnet_f0')
  (tmp_path / 'base.py').unlink()
  with pytest.raises(ValueError, match=r'no .*base.py: name the folder nfnets'):
    published.network(checkout, 'nfnet_f0')


def test_two_steps_over_devices_are_optaxs_on_the_whole_batch(checkout):
  train_step, shapes = published.step_of(checkout, 'nfnet_f0', 8, 4, 'float32')
  first, batch = filled(shapes)
  mapped, key = parallel.map_step(train_step), jax.random.key(0)
  state = parallel.replicate(first)
  for _ in range(2):
    state, metrics = mapped(
      state, parallel.shard(batch), parallel.replicate(key)
    )

  network = published.network(checkout, 'nfnet_f0')
  is_weight = lambda tree: jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == 'w', tree
  )
  sgd = optax.chain(
    optax.add_decayed_weights(2e-5, is_weight),
    optax.sgd(published.LEARNING_RATE, 0.9, nesterov=True),
  )
  targets = optax.smooth_labels(jax.nn.one_hot(batch['labels'], 1000), 0.1)

  def loss_of(params):
    logits = network.apply(params, key, jnp.asarray(batch['images']))
    return optax.softmax_cross_entropy(logits, targets).mean()

  params, memory = first.params, sgd.init(first.params)
  for _ in range(2):
    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, memory = sgd.update(gradients, memory, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
  for ours, theirs in zip(
    jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_in_bfloat16_what_is_kept_and_summed_is_float32(checkout):
  train_step, shapes = published.step_of(checkout, 'nfnet_f0', 4, 4, 'bfloat16')
  mapped = jax.vmap(
    train_step, (None, None, None), None, axis_name=parallel.AXIS, axis_size=1
  )
  kept, _ = jax.eval_shape(mapped, *shapes)
  assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype('f4')}
  step = jax.make_jaxpr(train_step, axis_env=[(parallel.AXIS, 1)])(*shapes)
  assert 'bf16[4,1000]' in str(step)
  sums = [e for e in step.eqns if e.primitive.name.startswith('psum')]
  types = {str(v.aval.dtype) for e in sums for v in e.invars}
  assert types == {'float32'}


def test_both_steps_take_turns_unclipped(checkout, monkeypatch):
  asked, turns = [], []

  def program(name, *_, **values):
    asked.append(values)
    return programs.Program(lambda count: turns.append(name), 1.0, 2.0, {})

  def time_chunks(run, *_):
    run(1)
    return [2.0 if turns[-1] == 'ours' else 8.0], 1

  monkeypatch.setattr(programs, 'prepare', functools.partial(program, 'ours'))
  monkeypatch.setattr(
    published, 'prepare', functools.partial(program, 'theirs')
  )
  monkeypatch.setattr(step_time, 'time_chunks', time_chunks)
  result = versus.compare_published(
    'nfnet_f0', 2, 8, folder=checkout, rounds=3, seconds=0.01, config='recipe'
  )
  first = ['ours', 'theirs']
  assert turns == [*first, *first[::-1], *first]
  assert asked[-1] == {'config': 'recipe', 'clip': 'none'}
  assert result['ratio'] == {'median': 0.25, 'low': 0.25, 'high': 0.25}
  assert set(result['peer_about']['versions']) == {'jax', 'dm-haiku'}
  assert set(result['peer_about']['files']) == {'base.py', 'nfnet.py'}


@pytest.mark.parametrize(
  ('model', 'mode', 'clip'),
  [
    ('nfnet_f0', 'train', 'agc'),
    ('nfnet_f0', 'folded', 'none'),
    ('resnet_50', 'train', 'none'),
  ],
)
def test_only_plain_training_of_nfnets_is_compared(model, mode, clip):
  with pytest.raises(ValueError, match=f'{model}, mode {mode}, clip {clip}'):
    versus.compare_published(model, 2, mode=mode, clip=clip, folder='')
