"""The input benchmark: every subject is measured, and the page says so."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
import tiny_tfds
from test_pipeline import Ramp

from nfnets.bench import clock, host, report, verdict
from nfnets.bench import input as benchmark
from nfnets.bench.peer import Peer

ROOT = pathlib.Path(__file__).parents[1]
QUICK = benchmark.Options(count=24, rounds=2, seconds=0.02, device_batch_size=4)


def photos(tmp_path, **values):
  tiny_tfds.write(tmp_path, 'toy', {'train': 24, 'test': 8})
  return tiny.config(
    **{
      'data__name': 'toy',
      'data__data_dir': str(tmp_path),
      'data__num_classes': 3,
      'data__crop': 'inception',
      'data__flip': True,
      'data__cache': False,
      'data__train_image_size': 16,
      'augment__mix': 'mixup_cutmix',
      'augment__randaugment_layers': 1,
      'augment__randaugment_magnitude': 5,
      **values,
    }
  )


def samples(**rates):
  names = {
    'host': verdict.host(2),
    'held': verdict.held(1),
    'held_2': verdict.held(2),
    'tf': verdict.tf_data(1),
    'published': verdict.PUBLISHED,
    'augment': verdict.AUGMENTATION,
    'step': 'train step',
  }
  return {
    names[name]: [clock.Sample(rate, 1.0, 0.5)] * 3
    for name, rate in rates.items()
  }


WORKER = """
import json, sys
import numpy as np
job = json.loads(sys.stdin.readline())
stored = np.load(job['path'])
print(json.dumps({'files': job['count'], 'bytes': len(stored['content']),
                  'labels': stored['labels'].tolist()}), flush=True)
for line in sys.stdin:
  question = json.loads(line)
  if question['subject'] == 'broken':
    print(json.dumps({'error': 'out of crops'}), flush=True)
  elif question['subject'] == 'dead':
    sys.exit('all is lost')
  else:
    print(json.dumps({'images': 10 * question['threads'], 'wall': 1.0,
                      'cpu': question['seconds']}), flush=True)
"""
PEER = [sys.executable, '-c', WORKER]


@pytest.mark.slow
def test_every_subject_is_measured_and_shown(tmp_path):
  config = photos(tmp_path)
  result = benchmark.measure(config, QUICK._replace(model=False), PEER)
  assert list(result['rates']) == [
    'host: read',
    'host: decode',
    'host: crop, flip, resize',
    'host pipeline from memory, 1 thread',
    'host pipeline, 1 thread',
    'host pipeline from memory, 2 threads',
    'host pipeline, 2 threads',
    'device: mixing',
    'device: RandAugment, switch',
    'device: RandAugment, stratified',
    'device: all augmentation',
    'tf.data from memory, 1 thread',
    'tf.data from memory, 2 threads',
    'published recipe, 1 thread',
  ]
  assert all(
    0 < rate['low'] <= rate['images_per_second'] <= rate['high']
    and rate['per_core'] > 0
    for rate in result['rates'].values()
  )
  assert result['rates']['tf.data from memory, 2 threads']['per_core'] == 1000
  assert result['where']['versions']['files'] == 24
  assert json.loads(json.dumps(result)) is not None
  page = verdict.page(result, 'COMMAND')
  assert all(f'| {name} ' in page for name in result['rates'])
  assert all(f'| {name} ' in page for name in result['ratios'])
  assert 'COMMAND' in page and result['bottleneck'] in page


def test_the_train_step_is_timed_and_cached_sets_need_no_second_pipeline():
  config = tiny.config(data__num_threads=1, data__on_device=True)
  result = benchmark.measure(config, QUICK)
  assert {'train step', 'host: ids'} <= set(result['rates'])
  assert "augmentation's share of the train step" in result['ratios']
  assert not any('from memory' in name for name in result['rates'])


def test_a_set_without_encoded_images_is_not_compared_and_says_so():
  config = tiny.config(data__num_threads=1)
  result = benchmark.measure(config, QUICK._replace(model=False), PEER)
  assert result['notes'] == [
    'tf.data was not measured: digits holds no encoded images.'
  ]
  assert not any('tf.data' in name for name in result['rates'])


def test_peer_gets_the_files_and_its_failure_is_one_line():
  files = [b'one', b'three']
  with Peer(PEER, files, [4, 2], {}) as peer:
    assert peer.about == {'files': 2, 'bytes': 8, 'labels': [4, 2]}
    assert peer.subject('decode', 3)(0.5) == clock.Sample(30, 1.0, 0.5)
    with pytest.raises(ValueError, match='out of crops'):
      peer.subject('broken', 1)(0.5)
    with pytest.raises(ValueError, match='all is lost'):
      peer.subject('dead', 1)(0.5)
  with pytest.raises(ValueError, match='No module named'):
    Peer([sys.executable, '-m', 'nothing.there'], files, [0, 0], {})


def test_held_photographs_are_brought_to_the_size_asked_for(tmp_path):
  config = photos(tmp_path)
  source = benchmark.sources.create('toy', 'train', config.data.data_dir)
  held = host.Held(source, 5, (40, 50))
  assert len(held) == 5 and (held.shapes == [40, 50]).all()
  assert host.decode(held[3]['image']).shape == (40, 50, 3)
  assert [held[i]['label'] for i in range(5)] == [
    source[i]['label'] for i in held.ids
  ]


def test_unreadable_examples_are_named_or_left_out():
  class Half(Ramp):
    def __getitem__(self, index):
      example = super().__getitem__(index)
      return example if index % 2 else {**example, 'image': b'nonsense'}

  with pytest.raises(ValueError, match='ramp [0-9]+: '):
    host.Held(Half(10), 10)
  assert sorted(host.Held(Half(10), 10, on_error='skip').ids) == [1, 3, 5, 7, 9]
  with pytest.raises(ValueError, match='none of the examples'):
    host.Held(Half(1), 1, on_error='skip')


def test_ratios_compare_training_images_with_training_images():
  values = samples(held=100, tf=50, held_2=90, published=20, augment=100)
  one_decode = verdict.ratios(tiny.config(), values)
  assert one_decode['host pipeline / tf.data, 1 thread'] == 2
  assert one_decode['training images per core / published recipe'] == 5
  both = 'the same, augmentation on these cores too'
  assert one_decode[both] == pytest.approx(2.5)
  fresh = tiny.config(augment__pairs='fresh', augment__mix='mixup')
  two_decodes = verdict.ratios(fresh, values)
  assert two_decodes['training images per core / published recipe'] == 2.5
  assert two_decodes[both] == pytest.approx(100 * 50 / 150 / 20)


@pytest.mark.parametrize(
  ('host_rate', 'step_rate', 'said'),
  [
    (300, 100, 'train step, 200 images/s a core; the host feeds 600, 3.00'),
    (50, 100, 'host, 100 images/s a core; train step takes 200, which 2.00 co'),
  ],
)
def test_bottleneck_is_the_slower_side(host_rate, step_rate, said):
  values = samples(host=host_rate, step=step_rate, augment=1000)
  assert verdict.bottleneck(tiny.config(), values).startswith(said)


def test_bottleneck_counts_an_accelerators_devices(monkeypatch):
  monkeypatch.setattr(verdict.jax, 'default_backend', lambda: 'gpu')
  values = samples(host=300, step=100, augment=1000)
  assert verdict.bottleneck(tiny.config(), values) == (
    'host, 300 images/s; train step takes 400, which 0.667 cores would feed'
  )


def test_report_names_no_place_of_this_machine():
  words = [
    '--input', '--config=configs/nfnet_f0.py', '--config.data.data_dir=/a/b',
    '--tensorflow_python=/c', '--output=/d', '--rounds=3', '--workdir=/e f',
    '--json', 'a', '~/b',
  ]  # fmt: skip
  assert report.command('scripts.benchmark', words) == (
    'python -m scripts.benchmark --input --config=configs/nfnet_f0.py '
    '--config.data.data_dir=DATA --tensorflow_python=PYTHON --output=FILE '
    '--rounds=3 --workdir=PATH --json FILE PATH'
  )


@pytest.mark.parametrize(
  ('value', 'text'),
  [(0.01234, '0.0123'), (4.567, '4.57'), (123.4, '123'), (1234.5, '1,230'),
   (10, '10.0'), (987654, '988,000')],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
  assert report.number(value) == text


def test_circumstances_name_processor_device_and_versions():
  where = report.circumstances()
  assert where['cores'] >= 1 and where['processor']
  assert where['devices'] == jax.local_device_count()
  assert where['versions']['numpy'] == np.__version__


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ([], 'say what to measure: --input'),
    (['--input'], 'name a recipe'),
    (['--input', '--config=configs/nfnet_f0.py', '--photo_size=9'], '400x500'),
    (['--model=nfnet_f0', '--against=published'], '--published=FOLDER'),
    (['--model=nfnet_f0', '--published=.'], '--published=FOLDER go together'),
    (
      ['--model=nfnet_f0', '--against=timm', '--ema'],
      '--against compares plain steps',
    ),
  ],
)
@pytest.mark.slow
def test_the_command_refuses_in_one_line(arguments, said):
  done = subprocess.run(
    [sys.executable, '-m', 'scripts.benchmark', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_command_writes_page_and_numbers(tmp_path):
  photos(tmp_path)
  page, numbers = tmp_path / 'page.md', tmp_path / 'numbers.json'
  subprocess.run(
    [
      sys.executable, '-m', 'scripts.benchmark', '--input', '--notrain_step',
      '--config=configs/nfnet_f0.py', '--config.data.name=toy',
      f'--config.data.data_dir={tmp_path}', '--config.data.num_classes=3',
      '--config.data.train_image_size=32', '--config.data.num_threads=1',
      '--device_batch_size=4', '--rounds=1', '--seconds=0.02',
      f'--output={page}', f'--json={numbers}',
    ],
    cwd=ROOT,
    check=True,
    capture_output=True,
  )  # fmt: skip
  result = json.loads(numbers.read_text())
  assert str(tmp_path) not in page.read_text() + numbers.read_text()
  assert result['command'] in page.read_text()
  assert result['train_image_size'] == 32
