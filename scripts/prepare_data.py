"""Prepares a data set as array_record: python -m scripts.prepare_data.

  --dataset=cifar10 --data_dir=DIR      or cifar100: downloads through TFDS
  --dataset=imagenet2012 --data_dir=DIR --source=FOLDER
      FOLDER holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar
  --dataset=caltech101 --data_dir=DIR --source=ARCHIVE
      ARCHIVE is 101_ObjectCategories, as a folder or a tar

Data that TFDS already prepared in DIR as TFRecord, of any name, are converted
instead, in their order. All but that needs the extra `prepare`.
"""

import importlib.util
import io
import json
import pathlib
import re
import socket
import struct
import tarfile
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

import nfnets.data
from scripts import common

DATASET = flags.DEFINE_string('dataset', None, 'Name of the data set.')
DATA_DIR = flags.DEFINE_string(
  'data_dir', '~/tensorflow_datasets', 'Where prepared data sets live.'
)
SOURCE = flags.DEFINE_string(
  'source', None, "Your own archives, where a data set can't be downloaded."
)

HOSTS = {
  'cifar10': 'https://www.cs.toronto.edu',
  'cifar100': 'https://www.cs.toronto.edu',
}
DATASETS = (*HOSTS, 'caltech101', 'imagenet2012')
TARS = ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar')


def main() -> int:
  name = common.needed(DATASET, '|'.join(DATASETS))
  try:
    prepare(name, pathlib.Path(common.path(DATA_DIR)), SOURCE.value)
  except tarfile.TarError as error:
    raise ValueError(error) from error
  return 0


def prepare(name: str, data_dir: pathlib.Path, source: str | None) -> None:
  """Makes `data_dir/name/<version>` hold array_record files, if none do yet."""
  for folder in prepared_versions(data_dir / name):
    info = json.loads((folder / 'dataset_info.json').read_text())
    formats = [info.get('fileFormat', 'tfrecord')]
    formats += info.get('alternativeFileFormats', [])
    if 'array_record' in formats:
      print(f'{name} is ready in {folder}')
      return
    convert(folder)
    print(f'{name} in {folder} now has array_record files beside its own')
    return
  if name not in DATASETS:
    raise ValueError(
      f'{name!r} is not prepared in {data_dir}, and this script can make only '
      f'{", ".join(DATASETS)}; prepare it with TFDS, then convert it with this'
    )
  need('tensorflow', 'importlib_resources')
  if name == 'caltech101':
    folder = write_caltech(data_dir, source)
  else:
    folder = build(name, data_dir, source)
  print(f'{name} is ready in {folder}')


def prepared_versions(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the prepared versions of a data set, newest first."""
  found = [info.parent for info in folder.glob('*/dataset_info.json')]
  found = [f for f in found if all(p.isdigit() for p in f.name.split('.'))]
  return sorted(found, key=lambda f: [int(p) for p in f.name.split('.')])[::-1]


def need(*modules: str) -> None:
  for module in modules:
    if importlib.util.find_spec(module) is None:
      raise ImportError(f'preparing needs {module}: pip install {module}')


def convert(folder: pathlib.Path) -> None:
  """Writes array_record shards beside TFRecord ones, in the same order.

  TFDS's own converter needs Apache Beam. This one needs not even TensorFlow:
  records move untouched. Their checksums are not verified, their counts are.
  """
  from array_record.python import array_record_module

  info_file = folder / 'dataset_info.json'
  info = json.loads(info_file.read_text())
  for split in info['splits']:
    pattern = f'{info["name"]}-{split["name"]}.tfrecord-*-of-*'
    shards = sorted(folder.glob(pattern))
    lengths = [int(length) for length in split.get('shardLengths', [])]
    if len(shards) != len(lengths):
      raise ValueError(
        f'{folder} has {len(shards)} of {len(lengths)} shards {pattern}'
      )
    for shard, length in zip(shards, lengths):
      target = folder / shard.name.replace('.tfrecord-', '.array_record-')
      partial = target.with_name(target.name + '.incomplete')
      writer = array_record_module.ArrayRecordWriter(
        str(partial),
        'group_size:1',  # as TFDS does: one record a read
      )
      count = 0
      for record in _tfrecords(shard):
        writer.write(record)
        count += 1
      writer.close()
      if count != length:
        raise ValueError(f'{shard} holds {count} records, expected {length}')
      partial.replace(target)
  others = set(info.get('alternativeFileFormats', [])) | {'array_record'}
  info['alternativeFileFormats'] = sorted(others)
  info_file.write_text(json.dumps(info, indent=2) + '\n')


def _tfrecords(path: pathlib.Path) -> Iterator[bytes]:
  # A record: length uint64, its checksum uint32, the bytes, theirs uint32.
  with path.open('rb') as file:
    while head := file.read(12):
      if len(head) < 12:
        raise ValueError(f'{path} ends in the middle of a record')
      (length,) = struct.unpack('<Q', head[:8])
      body = file.read(length + 4)
      if len(body) < length + 4:
        raise ValueError(f'{path} ends in the middle of a record')
      yield body[:length]


def build(name: str, data_dir: pathlib.Path, source: str | None) -> str:
  """Runs TFDS's own builder, on the user's tars or on its download."""
  if name in HOSTS:
    _check_network(HOSTS[name])
  else:
    tars = pathlib.Path(source or '').expanduser()
    missing = [t for t in TARS if source is None or not (tars / t).is_file()]
    if missing:
      raise FileNotFoundError(
        f'--source={source or "DIR"} must hold {" and ".join(missing)}; '
        'ImageNet must be fetched by hand from image-net.org'
      )
  import tensorflow_datasets as tfds

  builder = tfds.builder(
    name, data_dir=str(data_dir), file_format='array_record'
  )
  config = tfds.download.DownloadConfig(manual_dir=source)
  builder.download_and_prepare(download_config=config)
  return str(builder.data_dir)


def _check_network(url: str) -> None:
  # TFDS itself retries for minutes before it says so.
  host = urllib.parse.urlparse(url).hostname
  try:
    socket.create_connection((host, 443), timeout=10).close()
  except OSError as error:
    raise OSError(
      f'{host} cannot be reached ({error}); prepare the data on a machine '
      'with a network and copy its data_dir'
    ) from error


def write_caltech(data_dir: pathlib.Path, source: str | None) -> str:
  """Writes Caltech-101 by the project's own split list, its JPEGs untouched.

  TFDS's own split follows the order in which a file system lists files.
  """
  if source is None:
    raise ValueError(
      '--source must name 101_ObjectCategories, as a folder or a tar; get it '
      'from https://data.caltech.edu/records/mzrjq-6wc02'
    )
  split = json.loads(
    (
      pathlib.Path(nfnets.data.__file__).parent / 'caltech101_split.json'
    ).read_text()
  )
  parts: dict[str, dict[str, Any]] = {'train': {}, 'test': {}}
  for name, content in _files(pathlib.Path(source).expanduser()):
    match = re.search(r'([^/]+)/image_(\d{4})\.jpg$', name)
    if not match or match[1] not in split['classes']:
      continue
    for part in parts:
      first, last = split[part]
      if first <= int(match[2]) <= last:
        key = f'{match[1]}/image_{match[2]}'
        parts[part][key] = {
          'image': io.BytesIO(content),
          'label': match[1],
          'id': key,
        }
  for part, examples in parts.items():
    first, last = split[part]
    expected = len(split['classes']) * (last - first + 1)
    if len(examples) != expected:
      raise ValueError(
        f'{source} holds {len(examples)} of the {expected} {part} images of '
        'caltech101_split.json; it is not all of Caltech-101'
      )
  return _write(data_dir, 'caltech101', '1.0.0', split['classes'], parts)


def _files(source: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  if source.is_dir():
    for path in sorted(source.rglob('*.jpg')):
      yield path.as_posix(), path.read_bytes()
    return
  with tarfile.open(source) as tar:
    for member in tar:
      if member.isfile() and member.name.endswith('.jpg'):
        yield member.name, tar.extractfile(member).read()


def _write(
  data_dir: pathlib.Path,
  name: str,
  version: str,
  classes: Sequence[str],
  parts: dict[str, dict[str, Any]],
) -> str:
  import tensorflow_datasets as tfds

  features = tfds.features.FeaturesDict(
    {
      'id': tfds.features.Text(),
      'image': tfds.features.Image(encoding_format='jpeg'),
      'label': tfds.features.ClassLabel(names=classes),
    }
  )
  builder = tfds.dataset_builders.store_as_tfds_dataset(
    name=name,
    version=version,
    features=features,
    data_dir=str(data_dir),
    file_format='array_record',
    split_datasets={
      part: sorted(examples.items()) for part, examples in parts.items()
    },
  )
  return str(builder.data_dir)


if __name__ == '__main__':
  common.run(main)
