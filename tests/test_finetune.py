"""Starting from weights: either all of them fit, or the run is refused."""

import json
import pathlib

import numpy as np
import pytest
import tiny

from configs import finetune as recipe_file
from configs import finetune_caltech101
from nfnets import bucket, checkpoint, data, finetune, train, workdir
from nfnets.weights import files, folding, match

HEAD = 'CIFAR_ResNet/~/linear'


def given(num_classes=7, seed=3, **values):
  """Weights of the tiny network, unlike those of any initialization."""
  config = tiny.config(data__num_classes=num_classes)
  _, _, state = tiny.network_and_state(config)
  random = np.random.RandomState(seed)
  leaves = {
    path: np.float32(random.standard_normal(leaf.shape))
    for path, leaf in match.flatten(state.params).items()
  }
  overrides = config.model.to_dict()
  name = overrides.pop('name')
  return files.Weights(
    match.unflatten(leaves), {}, name, num_classes, overrides, values
  )


def write(tmp_path, weights):
  path = tmp_path / 'weights.safetensors'
  files.write(path, weights)
  return str(path)


def started(path, class_names=(), **values):
  values = {'ema__mode': 'warmup'} | values
  config = tiny.config(weights=path, **values)
  _, _, state = tiny.network_and_state(config)
  weights = finetune.fitting(config, state, class_names)
  return state, finetune.start(state, weights)


def assert_equal(found, wanted, paths):
  found, wanted = match.flatten(found), match.flatten(wanted)
  assert paths
  for path in paths:
    np.testing.assert_array_equal(found[path], wanted[path], path)


def test_all_but_the_head_comes_from_the_file_if_the_classes_differ(
  tmp_path, capsys
):
  weights = given(num_classes=7)
  before, after = started(write(tmp_path, weights))
  paths = match.flatten(before.params)
  body = [path for path in paths if not path.startswith(HEAD)]
  assert_equal(after.params, weights.params, body)
  assert_equal(after.ema_params, weights.params, body)
  assert_equal(after.params, before.params, [f'{HEAD}/w', f'{HEAD}/b'])
  said = capsys.readouterr().out
  assert 'head: new, 7 classes in the weights, 10 in the data' in said
  assert 'cifar_resnet_20' in said


@pytest.mark.parametrize(
  'there, here, kept',
  [
    ((), 'abcdefghij', True),
    ('abcdefghij', 'abcdefghij', True),
    ('abcdefghij', 'klmnopqrst', False),
  ],
)
def test_the_head_is_kept_unless_its_class_names_differ(
  tmp_path, capsys, there, here, kept
):
  names = {'class_names': list(there)} if there else {}
  weights = given(num_classes=10, **names)
  before, after = started(write(tmp_path, weights), list(here))
  source = weights if kept else before
  assert_equal(after.params, source.params, [f'{HEAD}/w', f'{HEAD}/b'])
  word = 'kept' if kept else 'new'
  assert f'head: {word}, ' in capsys.readouterr().out


def test_a_head_follows_class_names_in_another_order(tmp_path, capsys):
  weights = given(num_classes=10, class_names=list('abcdefghij'))
  _, after = started(write(tmp_path, weights), list('jihgfedcba'))
  for leaf in ('w', 'b'):
    wanted = weights.params[HEAD][leaf][..., ::-1]
    np.testing.assert_array_equal(after.params[HEAD][leaf], wanted)
  assert 'head: kept, ' in capsys.readouterr().out


def test_a_mismatch_is_refused_before_compilation(tmp_path):
  path = write(tmp_path, given()._replace(params={}))
  config = tiny.config(weights=path)
  with pytest.raises(match.Mismatch, match='missing'):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_a_head_of_another_width_is_not_taken_for_a_new_one(tmp_path):
  """Only the number of classes may differ where the head is kept."""
  weights = given(num_classes=10)
  leaves = dict(match.flatten(weights.params))
  leaves[f'{HEAD}/w'] = leaves[f'{HEAD}/w'][1:]
  path = write(tmp_path, weights._replace(params=match.unflatten(leaves)))
  with pytest.raises(match.Mismatch, match='linear/w'):
    started(path)


@pytest.mark.parametrize(
  'values, message',
  [
    ({'model__activation': 'silu'}, "trained with activation='relu'"),
    ({'model__alpha': 0.5}, 'trained with alpha=0.2'),
    ({'model__name': 'cifar_resnet_32'}, 'holds cifar_resnet_20'),
  ],
)
def test_weights_of_another_function_are_refused(tmp_path, values, message):
  with pytest.raises(ValueError, match=message):
    started(write(tmp_path, given()), **values)


def test_weights_that_are_not_finite_are_refused(tmp_path):
  weights = given()
  next(iter(weights.params.values()))['w'][..., 0] = np.nan
  with pytest.raises(ValueError, match='has values that are not finite'):
    started(write(tmp_path, weights))


def test_folded_weights_are_refused(tmp_path):
  path = write(tmp_path, folding.fold_weights(given()))
  with pytest.raises(ValueError, match='folded, for inference'):
    started(path)


def open_recipe(path, **values):
  config = recipe_file.get_config()
  config.weights = path
  config.data.num_train, config.data.num_classes = 500, 3
  for key, value in values.items():
    config.data[key] = value
  return config


def test_the_weights_complete_the_recipe(tmp_path):
  weights = given(
    eval_image_size=8, eval_preprocessing='none', mean=[1, 2, 3], std=[4, 5, 6]
  )
  config = open_recipe(write(tmp_path, weights))
  finetune.complete(config)
  resolved = config.copy_and_resolve_references()
  assert resolved.model.name == 'cifar_resnet_20'
  assert resolved.model.widths == (16, 16, 32)
  assert resolved.model.normalizer == 'nf'
  assert resolved.model.drop_rate == 0.0  # the recipe's own
  assert resolved.data.eval_image_size == resolved.data.train_image_size == 8
  assert resolved.data.eval_preprocessing == 'none'
  assert resolved.data.mean == (1, 2, 3) and resolved.data.std == (4, 5, 6)
  assert resolved.num_steps == 500 * 20 // 32


@pytest.mark.parametrize('size', [8, 32])
def test_the_line_on_weights_tells_their_size_from_the_runs(tmp_path, size):
  path = write(tmp_path, given(eval_image_size=8, eval_preprocessing='none'))
  sizes = {'train_image_size': size, 'eval_image_size': size}
  (line,), _ = finetune.complete(open_recipe(path, **sizes))
  assert f'used at {size} pixels' in line and 'none' not in line
  assert ('made for 8 pixels' in line) == (size != 8)


def test_published_sizes_and_constants_fill_in_what_a_file_lacks(
  tmp_path, monkeypatch
):
  weights = files.Weights({}, {}, 'nfnet_f1', 1000)
  monkeypatch.setattr(
    finetune.pretrained,
    'read',
    lambda path: weights,
  )
  config = open_recipe('F1_haiku.npz', eval_image_size=400)
  finetune.complete(config)
  assert config.data.train_image_size == 224  # PAPER_FACTS 1.3
  assert config.data.eval_image_size == 400  # as the user set it
  assert config.data.eval_preprocessing == 'resize_crop_32'
  np.testing.assert_allclose(config.data.mean[0] / 255, 0.485)


def test_the_data_complete_the_recipe(tmp_path):
  config = open_recipe(write(tmp_path, given()), name='digits')
  config.data.num_train = config.data.num_classes = 0
  (*_, line), opened = finetune.complete(config)
  assert [len(split) for split in opened] == [1438, 359]
  assert (config.data.num_train, config.data.num_classes) == (1438, 10)
  assert '10 classes, 1438 pictures to train on, 359 to test on' in line


def test_a_resumed_run_does_not_need_its_file(tmp_path):
  path = write(tmp_path, given(eval_image_size=8, mean=[1, 2, 3]))
  first = open_recipe(path)
  finetune.complete(first, tmp_path / 'run')
  folder = workdir.RunFolder(tmp_path / 'run')
  folder.write_config(first.copy_and_resolve_references().to_dict())
  (folder.path / 'checkpoints' / '5').mkdir(parents=True)
  (folder.path / 'metrics.jsonl').touch()
  (tmp_path / 'weights.safetensors').unlink()
  again = open_recipe(path)
  finetune.complete(again, tmp_path / 'run')
  folder.check_same_run(again.copy_and_resolve_references().to_dict())
  assert folder.read_config()['weights'] == path
  unnamed = open_recipe('')
  finetune.complete(unnamed, tmp_path / 'run')
  assert unnamed.weights == path and unnamed.to_json() == again.to_json()
  with pytest.raises(FileNotFoundError, match='weights.safetensors'):
    finetune.complete(open_recipe(path), tmp_path / 'other')


@pytest.mark.parametrize('ended', ['early', 'saved', 'finished'])
@pytest.mark.parametrize('storage', ['', 'memory:/'])
def test_only_a_run_that_has_begun_keeps_its_overrides(
  tmp_path, monkeypatch, storage, ended
):
  monkeypatch.setitem(bucket.PACKAGES, 'memory', 'fsspec')
  path = write(tmp_path, given(eval_image_size=8))
  place = f'{storage}{tmp_path}/run'
  first = open_recipe(path, eval_image_size=12, train_image_size=12)
  finetune.complete(first, place)
  with bucket.working_copy(place) as copy:
    folder = workdir.RunFolder(copy.path)
    folder.write_config(first.copy_and_resolve_references().to_dict())
    if ended == 'saved':
      (folder.path / 'checkpoints' / '5').mkdir(parents=True)
      (folder.path / 'checkpoints' / '5' / 'data').touch()
    if ended == 'finished':
      folder.write_summary({'status': 'finished', 'step': first.num_steps})
  again = open_recipe(path)
  finetune.complete(again, place)
  size = 8 if ended == 'early' else 12
  assert again.data.eval_image_size == again.data.train_image_size == size


def test_a_checkpoint_takes_precedence_over_the_weights(tmp_path, monkeypatch):
  path = write(tmp_path, given())
  config = tiny.config(weights=path)
  folder = workdir.RunFolder(tmp_path / 'run')
  folder.write_config(config.to_dict())
  _, _, state = tiny.network_and_state(config)
  checkpoints = checkpoint.Checkpoints(tmp_path / 'run')
  checkpoints.save(3, state._replace(step=np.int32(3)))
  checkpoints.wait()
  (tmp_path / 'weights.safetensors').unlink()
  (folder.path / 'metrics.jsonl').touch()
  checkpoints.close()
  monkeypatch.setattr(train, '_loop', lambda run, state, done, _: (state, done))
  monkeypatch.setattr(train, '_finish', lambda run, end: end)
  restored, first_step = train.train_and_evaluate(config, folder.path)
  assert first_step == 3
  assert_equal(restored.params, state.params, match.flatten(state.params))


def test_a_recipe_for_another_network_is_refused(tmp_path):
  config = open_recipe(write(tmp_path, given()))
  config.model.name = 'nfnet_f1'
  with pytest.raises(ValueError, match="holds cifar_resnet_20.*'nfnet_f1'"):
    finetune.complete(config)


@pytest.mark.parametrize('key, value', [('batch_size', 0), ('num_epochs', 1e9)])
def test_invalid_origins_are_refused_before_anything_is_computed(key, value):
  config = recipe_file.get_config('probe')
  config[key] = value
  with pytest.raises(ValueError, match=f'config.{key}={value}: must be in'):
    finetune.complete(config)


def test_an_evaluation_opens_no_training_split(tmp_path):
  for label in range(3):
    (tmp_path / f'val/{label}').mkdir(parents=True)
    (tmp_path / f'val/{label}/0.png').touch()
  config = open_recipe(write(tmp_path, given()))
  config.data.data_dir = str(tmp_path)
  config.data.num_train = config.data.num_classes = 0
  finetune.complete(config, trains=False)
  assert (config.data.num_train, config.data.num_classes) == (0, 3)
  with pytest.raises(FileNotFoundError, match='train is missing'):
    finetune.complete(config)
  config.data.data_dir = str(tmp_path / 'none')
  with pytest.raises(FileNotFoundError, match='/none does not exist'):
    finetune.complete(config)


def test_a_recipe_that_starts_from_weights_asks_for_them():
  with pytest.raises(ValueError, match='--config.weights=FILE'):
    finetune.complete(recipe_file.get_config())


def test_weights_that_name_no_network_are_refused(tmp_path):
  weights = files.Weights({'net/~/linear': {'w': np.zeros((2, 2))}}, {})
  path = write(tmp_path, weights)
  with pytest.raises(ValueError, match='does not name its network'):
    finetune.complete(open_recipe(path))


def test_presets_are_those_of_appendix_a5():
  """PAPER_FACTS 2.5: the plain schedule, and the one with SAM."""
  plain, with_sam = (recipe_file.get_config(p) for p in ('a5', 'a5_sam'))
  for config in (plain, with_sam):
    assert config.batch_size == 2048 and config.num_steps == 15_000
    assert config.schedule.warmup_steps == 5000
    assert config.learning_rate == 0.1 and config.ema.decay == 0.9999
  assert plain.sam.rho == plain.optimizer.weight_decay == 0
  assert with_sam.sam.rho == 0.05 and with_sam.optimizer.weight_decay == 1e-5
  assert with_sam.model.drop_rate == 0.25
  assert with_sam.model.stochdepth_rate == 0.1
  with pytest.raises(ValueError, match='no preset'):
    recipe_file.get_config('a6')


@pytest.mark.parametrize(
  'pictures, steps', [(8, 100), (160, 100), (1600, 1000)]
)
def test_the_small_preset_takes_at_least_100_steps(pictures, steps):
  config = recipe_file.get_config()
  config.data.num_train = pictures
  assert config.num_steps == steps
  assert config.schedule.warmup_steps == round(steps / 3)
  config.num_steps = 60
  assert config.schedule.warmup_steps == 20


def test_the_caltech_recipe_has_the_counts_of_its_split():
  path = pathlib.Path(data.__file__).parent / 'caltech101_split.json'
  split = json.loads(path.read_text())
  classes, (first, last) = len(split['classes']), split['train']
  config = finetune_caltech101.get_config()
  assert config.data.num_classes == classes
  assert config.data.num_train == classes * (last - first + 1)
