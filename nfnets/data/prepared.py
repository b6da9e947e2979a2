"""Data sets that tensorflow_datasets prepared as array_record.

They are read through TFDS's data source, without TensorFlow, and images stay
encoded. Nothing is downloaded: where data are missing, the error says what to
run.
"""

import os
import pathlib
from typing import Any

from nfnets import texts
from nfnets.data import image_folder, sources

# Those that scripts.prepare_data can prepare; it converts any.
DATASETS = ('cifar10', 'cifar100', 'caltech101', 'imagenet2012')


class Tfds:
  """One split of a prepared data set; a `sources.Source`."""

  note = ''

  def __init__(
    self,
    name: str,
    split: str,
    data_dir: str | None = None,
    label: str = 'label',
  ):
    import tensorflow_datasets as tfds

    folder = _find(name, data_dir)
    builder = _builder(folder)
    feature = _label_feature(name, builder.info.features, label)
    self._label = label
    self.multi_label = hasattr(feature, 'feature')  # a sequence of classes
    if self.multi_label:
      feature = feature.feature
    self.num_classes = feature.num_classes
    numbers = [str(i) for i in range(self.num_classes)]
    self.class_names = feature.names or numbers
    self._split = _tfds_split(name, builder.info.splits, split)
    self._where = f'{folder} {self._split}'
    if builder.info.splits[self._split].num_examples <= 0:  # as [5:3] has
      raise ValueError(
        f'{self._where} contains no examples; give another split, such as by '
        '--config.data.train_split or --config.data.eval_split'
      )
    self._data = builder.as_data_source(
      split=self._split, decoders={'image': tfds.decode.SkipDecoding()}
    )
    # Only now are the splits those of the format that is read.
    for part in builder.info.splits[self._split].file_instructions:
      if not os.path.exists(part.filename):
        raise FileNotFoundError(
          f'{part.filename} is missing, though dataset_info.json beside it '
          'lists it; copy or prepare the data again'
        )

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> dict[str, Any]:
    try:
      example = self._data[index]
    except Exception as error:  # array_record and protobuf raise many types
      raise ValueError(f'damaged record ({error})') from error
    label = example[self._label]
    if label is None or example['image'] is None:
      raise ValueError('empty record: its file is damaged or truncated')
    if not self.multi_label:
      label = int(label)
    return {'image': example['image'], 'label': label}

  def describe(self, index: int) -> str:
    return f'{self._where} example {index}'


def _find(name: str, data_dir: str | None) -> pathlib.Path:
  """Returns the folder of the version asked for, or of the newest one."""
  root = pathlib.Path(
    data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  ).expanduser()
  base, _, version = name.partition(':')
  found = {folder.name: folder for folder in versions(root / base)}
  if not found:
    raise FileNotFoundError(
      f'{base} is not prepared in {root}; {_remedy(base, root)}'
    )
  version = version or next(iter(found))
  if version not in found:
    raise FileNotFoundError(
      f'{root / base} contains version {", ".join(sorted(found))}, not '
      f'{version}'
    )
  formats = file_formats(found[version])
  if 'array_record' not in formats:
    remedy = f'move it away, then {_remedy(base, root)}'
    if 'tfrecord' in formats:
      remedy = f'convert it: {_command(base, root)}'
    raise ValueError(
      f'{found[version]} is in {formats[0]} format, which has no random '
      f'access; {remedy}'
    )
  return found[version]


def _remedy(name: str, root: pathlib.Path) -> str:
  """How to get a data set that `root` lacks."""
  if name in DATASETS:
    return f'run {_command(name, root)}'
  layouts = {tfds: layout for tfds, _, layout in image_folder.REPORTED.values()}
  layout = layouts.get(name)
  folder = f'set data_dir to a folder with {layout}, or ' if layout else ''
  return (
    f'{folder}prepare it with TFDS: tfds.builder({name!r}, data_dir='
    f"{str(root)!r}, file_format='array_record').download_and_prepare()"
  )


def _command(name: str, root: pathlib.Path) -> str:
  return f'python -m scripts.prepare_data --dataset={name} --data_dir={root}'


def versions(folder: pathlib.Path) -> list[pathlib.Path]:
  """The versions that TFDS prepared in a data set's folder, newest first."""
  found = [info.parent for info in folder.glob('*/dataset_info.json')]
  found = [f for f in found if all(p.isdigit() for p in f.name.split('.'))]
  return sorted(found, key=lambda f: [int(p) for p in f.name.split('.')])[::-1]


def file_formats(version: pathlib.Path) -> list[str]:
  """The formats a prepared version is stored in, such as 'array_record'."""
  path = version / 'dataset_info.json'
  remedy = 'copy or prepare the data again'
  info = texts.parse_json(path.read_bytes(), str(path), remedy)
  first = info.get('fileFormat', 'tfrecord')
  return [first, *(info.get('alternativeFileFormats') or [])]


def _builder(folder: pathlib.Path) -> Any:
  """TFDS's builder, by folder: by name, TFDS would ask the network first."""
  import tensorflow_datasets as tfds

  try:
    return tfds.builder_from_directory(str(folder))
  except Exception as error:  # protobuf and TFDS raise many types
    raise ValueError(
      f'{folder}: features.json or dataset_info.json is damaged ({error}); '
      'copy or prepare the data again'
    ) from error


def _label_feature(name: str, features: Any, label: str) -> Any:
  """Returns the feature with the class, or with a sequence of classes."""
  for key in ('image', label):
    if key not in features:
      hint = '; pass --config.data.label=NAME for the class'
      raise ValueError(
        f'{name} has no feature {key!r}, only {", ".join(sorted(features))}'
        + (hint if key == label else '')
      )
  feature = features[label]
  if not hasattr(getattr(feature, 'feature', feature), 'num_classes'):
    raise ValueError(
      f'{name}: config.data.label={label!r} is {feature}, not a class label'
    )
  return feature


def _tfds_split(name: str, found: Any, split: str) -> str:
  if '[' in split:
    return split
  # ImageNet's TFDS split called test has no labels.
  imagenet = name.startswith('imagenet2012')
  test = 'validation' if imagenet else 'test'
  base = test if split == 'test' else 'train'
  if base not in found:
    raise ValueError(f'{name} has no split {base!r}, only {sorted(found)}')
  if split in ('test', 'train_and_valid'):
    return base
  count = sources.num_valid(found[base].num_examples)
  return f'train[:{count}]' if split == 'valid' else f'train[{count}:]'
