"""A linear probe: its optimum, its features, its folder."""

import json

import jax
import numpy as np
import pytest
import tiny

from nfnets import bucket, factory, linear_probe, train
from nfnets.data import augment
from nfnets.weights import accuracy, files, folding, pretrained


def clusters(count=120, num_classes=3, seed=0):
  """Features of overlapping clusters, each dimension on its own scale."""
  random = np.random.RandomState(seed)
  labels = random.randint(0, num_classes, count)
  centres = np.random.RandomState(9).standard_normal((num_classes, 5))
  noise = 1.2 * random.standard_normal((count, 5))
  scales = np.array([1.0, 100.0, 0.01, 5.0, 1.0])
  features = (centres[labels] + noise) * scales + 7 * scales
  return features.astype(np.float32), labels.astype(np.int32)


def objective(linear, features, labels, l2):
  """The penalized loss in NumPy, on standardized features."""
  mean, std = features.mean(0), features.std(0)
  logits = features.astype(np.float64) @ linear.w + linear.b
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  w = linear.w * std[:, None]
  del mean
  rows = np.arange(len(labels))
  return -log_p[rows, labels].mean() + l2 / 2 * (w**2).sum()


def test_scales_and_offsets_of_features_change_no_prediction():
  features, labels = clusters()
  plain, _ = linear_probe.fit(features, labels, 3, 0.01)
  moved = features * np.array([10, 0.1, 3, 1, 2], np.float32) - 4
  other, _ = linear_probe.fit(moved, labels, 3, 0.01)
  np.testing.assert_allclose(
    features @ plain.w + plain.b, moved @ other.w + other.b, atol=1e-2
  )


@pytest.mark.parametrize('present', [3, 2])
def test_the_optimum_is_reached_also_if_a_class_has_no_example(present):
  features, labels = clusters()
  features, labels = features[labels < present], labels[labels < present]
  linear, _ = linear_probe.fit(features, labels, 3, 0.1)
  best = objective(linear, features, labels, 0.1)
  random = np.random.RandomState(0)
  for _ in range(50):
    w = (
      linear.w + 1e-2 * random.randn(*linear.w.shape) / features.std(0)[:, None]
    )
    other = linear_probe.Linear(w, linear.b + 1e-2 * random.randn(3))
    assert objective(other, features, labels, 0.1) > best - 1e-6
  assert (features @ linear.w + linear.b).argmax(-1).max() == present - 1


def test_a_constant_feature_gets_no_weight():
  features, labels = clusters()
  features[:, 2] = 3.0
  linear, _ = linear_probe.fit(features, labels, 3, 0.01)
  assert np.isfinite(linear.w).all()
  np.testing.assert_allclose(linear.w[2], 0.0, atol=1e-6)


def test_a_penalty_is_selected_where_features_are_noisy():
  """60 examples of 5 informative and 60 noisy features need a penalty."""
  features, labels = clusters(60)
  noise = np.random.RandomState(1).standard_normal((60, 60))
  noisy = np.concatenate([features, noise], 1).astype(np.float32)
  l2 = linear_probe.choose_l2(noisy, labels, 3)
  assert l2 in linear_probe.L2_GRID and l2 > 1e-5
  assert (
    linear_probe.choose_l2(features[:4], labels[:4], 3) in linear_probe.L2_GRID
  )


def test_a_penalty_is_selected_though_a_class_has_one_example(monkeypatch):
  features, _ = clusters(11)
  fitted, fit = [], linear_probe.fit
  monkeypatch.setattr(linear_probe, 'L2_GRID', (0.01, 0.1))

  def spied(features, labels, num_classes, l2):
    fitted.append(set(labels))
    return fit(features, labels, num_classes, l2)

  monkeypatch.setattr(linear_probe, 'fit', spied)
  for seed in range(40):
    labels = np.array([0] * 10 + [1])
    assert linear_probe.choose_l2(features, labels, 2, seed) in (0.01, 0.1)
  assert fitted and all(classes == {0, 1} for classes in fitted)
  labels = np.arange(11)  # whatever is held out is the only one of its class
  assert linear_probe.choose_l2(features, labels, 11) == 0.1  # the middle


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
  """A config whose weights are a tiny network's for 7 other classes."""
  config = tiny.config(data__num_classes=7)
  _, _, state = tiny.network_and_state(config)
  overrides = config.model.to_dict()
  name = overrides.pop('name')
  path = tmp_path_factory.mktemp('probe') / 'weights.safetensors'
  weights = files.Weights(state.params, {}, name, 7, overrides)
  files.write(path, weights)
  config = tiny.config(
    weights=str(path), eval_batch_size=359, probe=True, probe_l2=0.01
  )
  return config, weights


def test_features_equal_the_networks_pool_up_to_a_factor(setting):
  config, weights = setting
  _, source = factory.sources_of(config)
  folded = folding.fold_weights(weights)
  features, labels = linear_probe.features_of(config, folded, source)
  assert len(labels) == len(source)
  images = np.stack([source[i]['image'] for i in range(4)])
  images = augment.normalize(
    images.astype(np.float32), config.data.mean, config.data.std
  )
  network = factory.network_of(tiny.config(data__num_classes=7))
  outputs, _ = jax.jit(network.apply, static_argnums=4)(
    weights.params, {}, None, images, False
  )
  pool = np.asarray(outputs['pool'])
  ratio = pool.sum() / features[:4].sum()  # the activation's gamma
  np.testing.assert_allclose(features[:4] * ratio, pool, rtol=1e-3, atol=1e-4)
  assert [source[i]['label'] for i in range(4)] == list(labels[:4])


@pytest.mark.parametrize('loss', ['softmax', 'sigmoid'])
def test_a_probe_leaves_a_run_whose_weights_score_the_same(
  setting, tmp_path, capsys, loss
):
  config, folder = setting[0].copy_and_resolve_references(), tmp_path
  config.loss = loss
  summary = train.train_and_evaluate(config, folder)
  said = capsys.readouterr().out
  told = [
    'features: 0 of 1438', 'features: 1438 of 1438', 'features: 359 of 359',
    'fitting', 'test accuracy',
  ]  # fmt: skip
  assert sorted(map(said.index, told)) == list(map(said.index, told))
  assert summary['status'] == 'finished'
  assert summary['eval/top_1'] > 0.5  # digits, on random features
  written = json.loads((folder / 'summary.json').read_text())
  assert written['eval/top_1'] == summary['eval/top_1']
  (row,) = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
  assert row['eval/top_1'] == summary['eval/top_1']
  found = pretrained.load(folder)
  assert found.num_classes == 10 and found.overrides['folded']
  scores = accuracy.measure(config, {'eval': found}, fold=True)
  assert scores['eval/top_1'] == pytest.approx(summary['eval/top_1'])
  assert scores['eval/loss'] == pytest.approx(summary['eval/loss'], rel=1e-3)


def test_weights_of_another_network_than_the_configs_are_refused(
  setting, tmp_path
):
  config = setting[0].copy_and_resolve_references()
  config.model.activation = 'silu'
  with pytest.raises(ValueError, match="'relu', but config.model.activation"):
    linear_probe.probe(config, tmp_path)


def test_data_of_one_class_are_refused_by_name(setting, tmp_path, monkeypatch):
  one_class = clusters()[0], np.zeros(120, int)
  monkeypatch.setattr(linear_probe, 'features_of', lambda *_: one_class)
  with pytest.raises(ValueError, match="'digits': all 120 .* one class"):
    linear_probe.probe(setting[0], tmp_path)


def test_a_probe_in_several_processes_is_refused(
  setting, tmp_path, monkeypatch
):
  """Each would see its own part of the data."""
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match='config.probe=True.*not in 2'):
    linear_probe.probe(setting[0], tmp_path)


def test_a_probe_in_a_bucket_says_how_it_ended(setting, monkeypatch, capsys):
  summary = {'status': 'finished', 'step': 3, 'l2': 0.1}
  summary |= {'train/top_1': 0.9, 'eval/top_1': 0.8}
  monkeypatch.setitem(bucket.PACKAGES, 'memory', 'fsspec')
  monkeypatch.setattr(
    linear_probe, '_probe', lambda _, folder, __: folder.write_summary(summary)
  )
  found = linear_probe.probe(setting[0], 'memory://b/probe')
  assert found == summary and 'test accuracy 80.0 %' in capsys.readouterr().out


def test_a_probe_needs_weights(tmp_path):
  with pytest.raises(ValueError, match='--config.weights=FILE'):
    linear_probe.probe(tiny.config(), tmp_path)
  with pytest.raises(ValueError, match='must be above 0'):
    linear_probe.fit(*clusters(), 3, -1.0)
