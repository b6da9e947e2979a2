"""Prepares a data set as array_record: python -m scripts.prepare_data.

  --dataset=cifar10 --data_dir=DIR      or cifar100: downloads through TFDS
  --dataset=imagenet2012 --data_dir=DIR --source=FOLDER
      FOLDER contains ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar
  --dataset=caltech101 --data_dir=DIR --source=ARCHIVE
      ARCHIVE is 101_ObjectCategories, as a folder or a tar file

Any data set that TFDS already prepared in DIR as TFRecord is converted instead,
without changing its order. All but the conversion needs the extra `prepare`.
"""

import importlib
import io
import json
import pathlib
import re
import socket
import tarfile
from collections.abc import Iterator
from typing import Any

from absl import flags

from nfnets import bucket
from nfnets.data import prepared
from scripts import common

DATASET = flags.DEFINE_string('dataset', None, 'Name of the data set.')
DATA_DIR = flags.DEFINE_string(
  'data_dir', '~/tensorflow_datasets', 'Folder of prepared data sets.'
)
SOURCE = flags.DEFINE_string(
  'source', None, "Your archives of a data set that can't be downloaded."
)

HOST = 'www.cs.toronto.edu'  # of both CIFARs
TARS = ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar')


def main() -> int:
  name = common.needed(DATASET, '|'.join(prepared.DATASETS))
  if bucket.is_url(DATA_DIR.value):
    raise ValueError(f'--data_dir={DATA_DIR.value}: give a local folder')
  try:
    prepare(name, pathlib.Path(DATA_DIR.value).expanduser(), SOURCE.value)
  except tarfile.TarError as error:
    raise ValueError(error) from error
  return 0


def prepare(name: str, data_dir: pathlib.Path, source: str | None) -> None:
  """Ensures that `data_dir/name/<version>` has array_record files."""
  for folder in prepared.versions(data_dir / name)[:1]:
    if 'array_record' in prepared.file_formats(folder):
      print(f'{name} is ready in {folder}')
    else:
      convert(folder)
      print(f'{name} in {folder} now has array_record files beside its own')
    return
  if name not in prepared.DATASETS:
    raise ValueError(
      f'{name!r} is not prepared in {data_dir}, and this script can prepare '
      f'only {", ".join(prepared.DATASETS)}; prepare it with TFDS, then '
      'convert it here'
    )
  for module in ('tensorflow', 'importlib_resources'):
    importlib.import_module(module)  # TFDS would fail after the download
  if name == 'caltech101':
    folder = write_caltech(data_dir, source)
  else:
    folder = build(name, data_dir, source)
  print(f'{name} is ready in {folder}')


def convert(folder: pathlib.Path) -> None:
  """Writes array_record shards beside the TFRecord ones, in the same order.

  TFDS's own converter needs Apache Beam; this one copies records as they are
  and needs no TensorFlow. It checks their number, but not their checksums.
  """
  from array_record.python import array_record_module

  info_file = folder / 'dataset_info.json'
  info = json.loads(info_file.read_text())
  if missing := {'name', 'splits'} - info.keys():
    raise ValueError(
      f'{info_file} is damaged (no {min(missing)}); copy the data again'
    )
  for split in info['splits']:
    pattern = f'{info["name"]}-{split["name"]}.tfrecord-*-of-*'
    shards = sorted(folder.glob(pattern))
    lengths = [int(length) for length in split.get('shardLengths', [])]
    if len(shards) != len(lengths):
      raise ValueError(
        f'{folder} has {len(shards)} of {len(lengths)} shards {pattern}; copy '
        'the missing ones'
      )
    for shard, length in zip(shards, lengths):
      records = _records(shard, length)
      target = folder / shard.name.replace('.tfrecord-', '.array_record-')
      partial = target.with_name(target.name + '.incomplete')
      # As TFDS does: each read returns one record.
      writer = array_record_module.ArrayRecordWriter(
        str(partial), 'group_size:1'
      )
      for record in records:
        writer.write(record)
      writer.close()
      partial.replace(target)
  others = set(info.get('alternativeFileFormats') or []) | {'array_record'}
  info['alternativeFileFormats'] = sorted(others)
  info_file.write_text(json.dumps(info, indent=2) + '\n')


def _records(shard: pathlib.Path, count: int) -> list[bytes]:
  import grain

  try:
    records = list(grain.experimental.TFRecordIterDataset(str(shard)))
  except (ValueError, OverflowError, MemoryError):  # of a damaged length
    raise ValueError(
      f'{shard} ends in the middle of a record; copy it again'
    ) from None
  if len(records) != count:
    raise ValueError(
      f'{shard} has {len(records)} records instead of {count}; copy it again'
    )
  return records


def build(name: str, data_dir: pathlib.Path, source: str | None) -> str:
  """Runs TFDS's builder on the user's tars, or lets it download."""
  tars = pathlib.Path(source or '')
  if name.startswith('cifar'):
    try:  # TFDS itself would retry for minutes before it reports this
      socket.create_connection((HOST, 443), timeout=10).close()
    except OSError as error:
      raise OSError(
        f'{HOST} cannot be reached ({error}); prepare the data on a machine '
        'with a network and copy its data_dir'
      ) from error
  elif not source or not all((tars / tar).is_file() for tar in TARS):
    raise FileNotFoundError(
      f'--source={source or "DIR"} must contain {" and ".join(TARS)}; download '
      'them from image-net.org'
    )
  import tensorflow_datasets as tfds

  builder = tfds.builder(
    name, data_dir=str(data_dir), file_format='array_record'
  )
  config = tfds.download.DownloadConfig(manual_dir=source and str(tars))
  builder.download_and_prepare(download_config=config)
  return str(builder.data_dir)


def write_caltech(data_dir: pathlib.Path, source: str | None) -> str:
  """Writes Caltech-101 with its JPEGs unchanged, split by the project's list.

  TFDS's own split depends on the order in which a file system lists files.
  """
  if source is None:
    raise ValueError(
      'set --source=101_ObjectCategories, a folder or a tar file; download it '
      'from https://data.caltech.edu/records/mzrjq-6wc02'
    )
  split = json.loads(
    pathlib.Path(prepared.__file__)
    .with_name('caltech101_split.json')
    .read_text()
  )
  examples: dict[str, dict[str, Any]] = {'train': {}, 'test': {}}
  for name, content in _files(pathlib.Path(source)):
    match = re.search(r'(([^/]+)/image_(\d{4}))\.jpg$', name)
    if not match or match[2] not in split['classes']:
      continue
    for part, found in examples.items():
      first, last = split[part]
      if first <= int(match[3]) <= last:
        image = io.BytesIO(content)
        found[match[1]] = {'id': match[1], 'image': image, 'label': match[2]}
  for part, found in examples.items():
    first, last = split[part]
    expected = len(split['classes']) * (last - first + 1)
    if len(found) != expected:
      raise ValueError(
        f'{source} contains {len(found)} of the {expected} {part} images of '
        'caltech101_split.json; it must be all of Caltech-101'
      )
  import tensorflow_datasets as tfds

  features = {
    'id': tfds.features.Text(),
    'image': tfds.features.Image(encoding_format='jpeg'),
    'label': tfds.features.ClassLabel(names=split['classes']),
  }
  builder = tfds.dataset_builders.store_as_tfds_dataset(
    name='caltech101',
    version='1.0.0',
    features=tfds.features.FeaturesDict(features),
    data_dir=str(data_dir),
    file_format='array_record',
    split_datasets={
      part: sorted(found.items()) for part, found in examples.items()
    },
  )
  return str(builder.data_dir)


def _files(source: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  if source.is_dir():
    for path in sorted(source.rglob('*.jpg')):
      yield path.as_posix(), path.read_bytes()
    return
  with tarfile.open(source) as tar:
    for member in tar:
      if member.isfile() and member.name.endswith('.jpg'):
        yield member.name, tar.extractfile(member).read()


if __name__ == '__main__':
  common.run(main)
