r"""Fine-tunes an NFNet on the photographs of Caltech-101.

  python -m scripts.train --config=configs/finetune_caltech101.py \
    --workdir=DIR --config.weights=F0_haiku.npz --config.data.data_dir=DATA

The example of *A minimal ablation study of NFNets*, on a fixed split of ours:
images 1 to 20 of each of 102 classes for training, 21 to 30 for testing (2,040
and 1,020 photographs, nfnets/data/caltech101_split.json), as written by
`scripts.prepare_data --dataset=caltech101`. Results on other splits aren't
comparable. It takes the same weights and presets as configs/finetune.py; `a5`
and `a5_sam` need `--config.batch_size=1024`, as 2,048 exceeds the number of
images. Not yet run from published weights, which were not available.
"""

from ml_collections import ConfigDict

from configs import finetune


def get_config(preset: str = 'small') -> ConfigDict:
  """A preset of configs/finetune.py, on Caltech-101."""
  config = finetune.get_config(preset)
  config.data.name = 'caltech101'
  config.data.num_train = 2040  # caltech101_split.json
  config.data.num_classes = 102
  return config
