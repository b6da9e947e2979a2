"""scripts/prepare_data.py: converts, builds, or says what is missing."""

import json
import pathlib
import tarfile

import pytest
import tiny_tfds

from nfnets.data import sources
from scripts import prepare_data

ROOT = pathlib.Path(__file__).parents[1]


def read(source):
  items = [source[i] for i in range(len(source))]
  return [(item['image'], item['label']) for item in items]


def test_tfrecord_is_converted_without_loss_and_in_order(tmp_path):
  written = tiny_tfds.write(tmp_path, 'toy', {'train': 25}, form='tfrecord')
  prepare_data.prepare('toy', tmp_path, None)
  source = sources.create('toy', 'train_and_valid', str(tmp_path))
  assert read(source) == written['train']


def test_converted_data_need_their_new_shards_and_not_the_old_ones(tmp_path):
  written = tiny_tfds.write(tmp_path, 'toy', {'train': 25}, form='tfrecord')
  prepare_data.prepare('toy', tmp_path, None)
  for shard in tmp_path.rglob('*tfrecord*'):
    shard.unlink()
  source = sources.create('toy', 'train_and_valid', str(tmp_path))
  assert read(source) == written['train']
  next(tmp_path.rglob('*array_record-00001*')).unlink()
  with pytest.raises(FileNotFoundError, match='array_record-00001.* is missin'):
    sources.create('toy', 'train_and_valid', str(tmp_path))


def test_data_whose_other_formats_are_null_are_converted(tmp_path):
  written = tiny_tfds.write(tmp_path, 'toy', {'train': 25}, form='tfrecord')
  info_file = next(tmp_path.rglob('dataset_info.json'))
  info = json.loads(info_file.read_text())
  info_file.write_text(json.dumps(info | {'alternativeFileFormats': None}))
  prepare_data.prepare('toy', tmp_path, None)
  source = sources.create('toy', 'train_and_valid', str(tmp_path))
  assert read(source) == written['train']


def test_what_is_prepared_is_left_alone(tmp_path, capsys):
  tiny_tfds.write(tmp_path, 'toy', {'train': 25})
  shards = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*-of-*')}
  prepare_data.prepare('toy', tmp_path, None)
  assert 'toy is ready' in capsys.readouterr().out
  assert shards == {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*-of-*')}


@pytest.mark.parametrize(
  'damage',
  [lambda content: content[:-30], lambda content: b'\xff' * 8 + content[8:]],
  ids=['its end is missing', 'a length is damaged'],
)
def test_broken_tfrecord_is_named_and_nothing_is_declared_ready(
  damage, tmp_path
):
  tiny_tfds.write(tmp_path, 'toy', {'train': 25}, form='tfrecord')
  shard = next(tmp_path.rglob('*00001-of-00002'))
  shard.write_bytes(damage(shard.read_bytes()))
  with pytest.raises(ValueError, match='00001-of-00002 ends in the middle'):
    prepare_data.prepare('toy', tmp_path, None)
  with pytest.raises(ValueError, match='convert it'):
    sources.create('toy', 'train', str(tmp_path))


def test_missing_shard_is_named(tmp_path):
  tiny_tfds.write(tmp_path, 'toy', {'train': 25}, form='tfrecord')
  next(tmp_path.rglob('*00001-of-00002')).unlink()
  with pytest.raises(ValueError, match='1 of 2 shards toy-train'):
    prepare_data.prepare('toy', tmp_path, None)


def test_damaged_description_is_named(tmp_path):
  tiny_tfds.write(tmp_path, 'toy', {'train': 25}, form='tfrecord')
  next(tmp_path.rglob('dataset_info.json')).write_text('{"name": "toy"}')
  with pytest.raises(ValueError, match='info.json is damaged .no splits'):
    prepare_data.prepare('toy', tmp_path, None)


def test_imagenet_without_tars_names_them(tmp_path):
  with pytest.raises(FileNotFoundError, match='ILSVRC2012_img_val.tar'):
    prepare_data.build('imagenet2012', tmp_path, str(tmp_path))


def test_incomplete_caltech_is_refused(tmp_path):
  folder = tmp_path / '101_ObjectCategories' / 'ant'
  folder.mkdir(parents=True)
  (folder / 'image_0001.jpg').write_bytes(tiny_tfds.jpeg(1))
  with pytest.raises(ValueError, match='contains 1 of the 2040 train images'):
    prepare_data.write_caltech(tmp_path, str(tmp_path))


@pytest.mark.slow
def test_caltech_is_split_by_our_list_and_its_files_are_untouched(
  tmp_path, run_script
):
  pytest.importorskip('tensorflow')
  archive = ROOT / '../shared/data/caltech101_3060.tar'
  if not archive.exists():
    pytest.skip(f'{archive} is not here')
  flags = '--dataset=caltech101', f'--data_dir={tmp_path}'
  source = f'--source={archive}'
  done = run_script('scripts.prepare_data', *flags, source, process=True)
  assert done.code == 0, done.stderr
  with tarfile.open(archive) as tar:
    files = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
  for split, part in (('train_and_valid', 'train'), ('test', 'test')):
    source = sources.create('caltech101', split, str(tmp_path))
    names = source.class_names
    expected = [
      (content, names.index(path.split('/')[-2]))
      for path, content in files.items()
      if f'/{part}/' in path
    ]
    assert sorted(read(source)) == sorted(expected)
