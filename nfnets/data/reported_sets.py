"""ImageNet-V2 and ReaL: sets that results are reported on, never trained on.

Both may be prepared by TFDS, or lie in a folder as they were published:
  imagenet_v2        `0/*.jpeg` to `999/*.jpeg`, folders named by label (Recht
                     et al. 2019, arXiv:1902.10811; "matched frequency").
  imagenet2012_real  an ILSVRC2012 folder with `real.json`, a list of lists of
                     classes in the order of the images' numbers, from
                     ILSVRC2012_val_00000001.JPEG on (Beyer et al. 2020,
                     arXiv:2006.07159).
"""

import pathlib
import re

from nfnets import texts
from nfnets.data import image_folder, prepared
from nfnets.data.image_folder import Files

SYNSETS = pathlib.Path(__file__).parents[1] / 'weights/imagenet_classes.txt'


def create(
  name: str, split: str, data_dir: str | None
) -> Files | prepared.Tfds:
  """Opens 'imagenet_v2' or 'imagenet2012_real'."""
  if split != 'test':
    raise ValueError(
      f'{name} can only be evaluated on: use it with scripts.evaluate'
    )
  root = pathlib.Path(data_dir or '').expanduser()
  if name == 'imagenet_v2':
    if (root / '0').is_dir():
      return _imagenet_v2(root)
    return prepared.Tfds('imagenet_v2/matched-frequency', split, data_dir)
  if (root / 'real.json').is_file():
    return _real(root)
  return prepared.Tfds(name, split, data_dir, 'real_label')


def _imagenet_v2(root: pathlib.Path) -> Files:
  lines = SYNSETS.read_text().splitlines()
  class_names = [line.split()[0] for line in lines if line[0] != '#']
  known = [str(label) for label in range(len(class_names))]
  present = image_folder.class_folders(root)
  files, ignored = [], image_folder.loose_images(root)
  for name in present:
    if name not in known:
      ignored['folder(s) that are not classes'].append(name)
      continue
    found = image_folder.list_images(root / name, ignored)
    files += [(path, int(name)) for path in found]
  notes = image_folder.summarize(ignored)
  if absent := sorted(set(known) - set(present)):
    notes = [f'{len(absent)} classes are absent, such as {absent[0]!r}', *notes]
  return Files(files, class_names, '; '.join(notes))


def _real(root: pathlib.Path) -> Files:
  folder = image_folder.create(str(root), 'test')
  path = root / 'real.json'
  remedy = 'copy it again'
  labels = texts.parse_json(path.read_bytes(), str(path), remedy, list)
  for number, classes in enumerate(labels, 1):
    if not (isinstance(classes, list) and all(type(x) is int for x in classes)):
      raise ValueError(f'{path}: entry {number} is not a list of classes')
  files = []
  for image, _ in folder.files:
    number = re.fullmatch(r'.*_(\d+)', pathlib.Path(image).stem)
    if not number or not 0 < int(number[1]) <= len(labels):
      raise ValueError(
        f'{image}: its name must end in a number from 1 to {len(labels)}, the '
        'entries of real.json'
      )
    files.append((image, labels[int(number[1]) - 1]))
  return Files(files, folder.class_names, folder.note, multi_label=True)
