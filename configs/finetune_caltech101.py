r"""Fine-tunes an NFNet on the photographs of Caltech-101.

  python -m scripts.train --config=configs/finetune_caltech101.py \
    --workdir=DIR --config.weights=F0_haiku.npz --config.data.data_dir=DATA

The example of the report of NFNets' authors, on this project's fixed split:
images 1 to 20 of every class train, 21 to 30 test
(nfnets/data/caltech101_split.json; 102 classes, 2,040 and 1,020 photographs),
as `scripts.prepare_data --dataset=caltech101` writes them. Other splits'
figures aren't comparable. Any weights that configs/finetune.py takes; not yet
run from published ones, which were not at hand.
"""

from ml_collections import ConfigDict

from configs import finetune


def get_config(preset: str = 'small') -> ConfigDict:
  """configs/finetune.py's presets, with these data."""
  config = finetune.get_config(preset)
  config.data.name = 'caltech101'
  config.data.num_train = 2040  # caltech101_split.json
  config.data.num_classes = 102
  return config
