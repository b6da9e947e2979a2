"""Small prepared TFDS data sets for tests, written without TensorFlow or TFDS.

TFRecord files are framed and tf.Example messages encoded by hand, so reading
them with TFDS is an independent check.
"""

import io
import json
import pathlib
import struct

import numpy as np
from array_record.python import array_record_module
from PIL import Image

CORE = 'tensorflow_datasets.core.features.'


def write(
  data_dir, name, splits, *, classes=3, version='1.0.0', form='array_record',
  sets=None,
):  # fmt: skip
  """Writes `data_dir/name/version`; returns {split: [(file bytes, label)]}.

  `splits` maps a split's name to its number of examples; example i of a split
  is a JPEG of flat colour with label i % classes. Each split has two shards.
  With `sets`, example i has a feature `real_label` with the labels sets[i].
  """
  base, _, config = name.partition('/')
  folder = pathlib.Path(data_dir) / name / version
  folder.mkdir(parents=True)
  written, infos = {}, []
  for split, count in splits.items():
    examples = [(jpeg(i), i % classes) for i in range(count)]
    several = sets or [None] * count
    halves = [examples[: count // 2], examples[count // 2 :]]
    for i, half in enumerate(halves):
      path = folder / f'{base}-{split}.{form}-{i:05d}-of-00002'
      part = several[count // 2 :] if i else several[: count // 2]
      records = [_example(*one, real) for one, real in zip(half, part)]
      _WRITERS[form](path, records)
    written[split] = examples
    infos.append(
      {
        'name': split,
        'shardLengths': [str(len(half)) for half in halves],
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      }
    )
  info = {'name': base, 'version': version, 'fileFormat': form}
  if config:
    info['configName'] = config
  _dump(folder / 'dataset_info.json', {**info, 'splits': infos})
  _dump(folder / 'features.json', _features(classes, bool(sets)))
  names = ''.join(f'class_{i}\n' for i in range(classes))
  for feature in ('label', 'real_label') if sets else ('label',):
    (folder / f'{feature}.labels.txt').write_text(names)
  return written


def jpeg(shade, height=20, width=30):
  picture = np.full((height, width, 3), 5 * shade % 256, np.uint8)
  file = io.BytesIO()
  Image.fromarray(picture).save(file, 'JPEG')
  return file.getvalue()


def _dump(path, content):
  path.write_text(json.dumps(content))


def _features(classes, with_sets):
  one = {
    'pythonClassName': CORE + 'class_label_feature.ClassLabel',
    'classLabel': {'numClasses': str(classes)},
  }
  image = {
    'dtype': 'uint8',
    'encodingFormat': 'jpeg',
    'shape': {'dimensions': ['-1', '-1', '3']},
  }
  return {
    'pythonClassName': CORE + 'features_dict.FeaturesDict',
    'featuresDict': {
      'features': {
        'image': {
          'pythonClassName': CORE + 'image_feature.Image',
          'image': image,
        },
        'label': one,
      }
      | ({'real_label': _sequence(one)} if with_sets else {})
    },
  }


def _sequence(feature):
  return {
    'pythonClassName': CORE + 'sequence_feature.Sequence',
    'sequence': {'feature': feature, 'length': '-1'},
  }


def _example(image, label, several):
  """tf.Example {image: bytes, label: int64}, in protocol buffer's encoding."""
  features = b''
  ints = lambda values: _field(3, _field(1, b''.join(map(_varint, values))))
  for key, value in (
    ('image', _field(1, _field(1, image))),  # Feature.bytes_list.value
    ('label', ints([label])),  # packed int64_list
    *([] if several is None else [('real_label', ints(several))]),
  ):
    features += _field(1, _field(1, key.encode()) + _field(2, value))
  return _field(1, features)


def _field(number, content):
  return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value):
  out = b''
  while value > 127:
    out += bytes([value & 127 | 128])
    value >>= 7
  return out + bytes([value])


def _write_tfrecord(path, records):
  with path.open('wb') as file:
    for record in records:
      head = struct.pack('<Q', len(record))
      file.write(head + b'crc.' + record + b'crc.')


def _write_array_record(path, records):
  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  for record in records:
    writer.write(record)
  writer.close()


_WRITERS = {'tfrecord': _write_tfrecord, 'array_record': _write_array_record}
