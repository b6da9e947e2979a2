"""The published variants of every family, as literals; imports no jax.

A row holds arguments of its network (`depths`, `widths`, `drop_rate`,
`stochdepth_rate` and, for timm's networks, others) and settings of training and
evaluation (`train_image_size` and `eval_image_size` in pixels, layers and
magnitude of RandAugment, weight decay). Paper A is arXiv 2102.06171 (NFNets),
paper B arXiv 2101.08692 (NF-ResNets).
"""

import difflib


def _table(name: str, columns: str, rows: dict, **common: object) -> dict:
  return {
    name.format(key): common | dict(zip(columns.split(), row, strict=True))
    for key, row in rows.items()
  }


# Paper A, Table 1 and section A.1; F7 and the plus widths as released.
_NFNETS = {
  'f0': ((1, 2, 6, 3), 192, 256, 0.2, 5),
  'f1': ((2, 4, 12, 6), 224, 320, 0.3, 10),
  'f2': ((3, 6, 18, 9), 256, 352, 0.4, 10),
  'f3': ((4, 8, 24, 12), 320, 416, 0.4, 15),
  'f4': ((5, 10, 30, 15), 384, 512, 0.5, 15),
  'f5': ((6, 12, 36, 18), 416, 544, 0.5, 15),
  'f6': ((7, 14, 42, 21), 448, 576, 0.5, 15),
  'f7': ((8, 16, 48, 24), 480, 608, 0.5, 15),
}


def _nfnets(name: str, widths: tuple[int, ...]) -> dict:
  return _table(
    name,
    'depths train_image_size eval_image_size drop_rate randaugment_magnitude',
    _NFNETS,
    widths=widths,
    stochdepth_rate=0.25,
    randaugment_layers=4,
  )


NFNET = _nfnets('nfnet_{}', (256, 512, 1536, 1536)) | _nfnets(
  'nfnet_{}_plus', (384, 768, 2048, 2048)
)

# Paper A, Table 2: the widths of ResNets, before they are modified.
NFNET_DEFAULT_WIDTHS = (256, 512, 1024, 2048)

# Paper B, appendix. Widths precede the multiplier of 0.75. Weight decay is as
# released; None where the release has none.
NF_REGNET = _table(
  'nf_regnet_{}',
  'widths depths train_image_size eval_image_size drop_rate weight_decay',
  {
    'b0': ((48, 104, 208, 440), (1, 3, 6, 6), 192, 224, 0.2, 5e-5),
    'b1': ((48, 104, 208, 440), (2, 4, 7, 7), 224, 256, 0.2, 6e-5),
    'b2': ((56, 112, 232, 488), (2, 4, 8, 8), 240, 272, 0.3, 7e-5),
    'b3': ((56, 128, 248, 528), (2, 5, 9, 9), 288, 320, 0.3, 8e-5),
    'b4': ((64, 144, 288, 616), (2, 6, 11, 11), 320, 384, 0.4, 9e-5),
    'b5': ((80, 168, 336, 704), (3, 7, 14, 14), 384, 456, 0.4, 1e-4),
    'b6': ((88, 184, 376, 792), (3, 8, 16, 16), 448, 528, 0.5, None),
    'b7': ((96, 208, 416, 880), (4, 10, 19, 19), 512, 600, 0.5, None),
    'b8': ((104, 232, 456, 968), (4, 11, 22, 22), 600, 672, 0.5, None),
  },
  stochdepth_rate=0.1,
)

# Blocks per stage of the four ImageNet ResNet families (paper B, Table 1).
RESNET_DEPTHS = {
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
  200: (3, 24, 36, 3),
  288: (24, 24, 24, 24),
  600: (50, 50, 50, 50),
}


def _resnets(name: str, stochdepth_rate: float) -> dict:
  return _table(
    name,
    'depths',
    {depth: (row,) for depth, row in RESNET_DEPTHS.items()},
    widths=(256, 512, 1024, 2048),
    train_image_size=224,
    eval_image_size=224,
    drop_rate=0.0,
    stochdepth_rate=stochdepth_rate,
  )


NF_RESNET = _resnets('nf_resnet_{}', stochdepth_rate=0.1)  # nf_resnet.py:36
RESNET = _resnets('resnet_{}', stochdepth_rate=0.0)
SKIPINIT_RESNET = _resnets('skipinit_resnet_{}', stochdepth_rate=0.1)
FIXUP_RESNET = _resnets('fixup_resnet_{}', stochdepth_rate=0.1)

# He et al., arXiv 1512.03385, section 4.2: 6n + 2 layers.
CIFAR_RESNET = _table(
  'cifar_resnet_{}',
  'depths',
  {6 * n + 2: ((n, n, n),) for n in (3, 5, 7, 9, 18)},
  widths=(16, 32, 64),
  num_classes=10,
  train_image_size=32,
  eval_image_size=32,
  drop_rate=0.0,
  stochdepth_rate=0.0,
)

# timm's networks, from models/nfnet.py and its default_cfgs in timm 1.0.31.
# Dropout and stochastic depth are those of the published variants, because timm
# leaves them to the recipe. See `data.images` for `eval_preprocessing`.
_TIMM = {'ws_eps': 'timm', 'eval_preprocessing': 'center_0.9'}
_SYMMETRIC = _TIMM | {'padding': 'symmetric', 'skipinit_gain': None}
_GELU = {'activation': 'gelu_erf'}
_DM_CROPS = (0.9, 0.91, 0.92, 0.94, 0.951, 0.954, 0.956)
_LIGHT = _SYMMETRIC | {
  'widths': NFNET['nfnet_f0']['widths'],
  'drop_rate': 0.0,
  'stochdepth_rate': 0.0,
  'activation': 'silu',
  'bottleneck_ratio': 0.25,
  'group_size': 64,
  'se_ratio': 0.25,
}
TIMM_NFNET = {
  f'dm_nfnet_f{n}': NFNET[f'nfnet_f{n}']
  | _GELU
  | {'ws_eps': 'timm', 'eval_preprocessing': f'squash_{crop}'}
  for n, crop in enumerate(_DM_CROPS)
}
TIMM_NFNET |= {
  f'timm/nfnet_f{n}': NFNET[f'nfnet_f{n}'] | _SYMMETRIC | _GELU
  for n in range(8)
}
TIMM_NFNET |= _table(
  '{}',
  'depths train_image_size eval_image_size eval_preprocessing attention '
  'final_ratio',
  {
    'nfnet_l0': ((1, 2, 6, 3), 224, 288, 'center_1.0', 'se', 1.5),
    'eca_nfnet_l0': ((1, 2, 6, 3), 224, 288, 'center_1.0', 'eca', 1.5),
    'eca_nfnet_l1': ((2, 4, 12, 6), 256, 320, 'center_1.0', 'eca', 2.0),
    'eca_nfnet_l2': ((3, 6, 18, 9), 320, 384, 'center_1.0', 'eca', 2.0),
    'eca_nfnet_l3': ((4, 8, 24, 12), 352, 448, 'center_1.0', 'eca', 2.0),
    'test_nfnet': ((1, 1, 1, 1), 160, 160, 'center_0.95', 'se', 1.5),
  },
  **_LIGHT,
)
TIMM_NFNET['test_nfnet'] |= {
  'widths': (32, 64, 96, 128),
  'group_size': 8,
  'stem': ((16, 2), (32, 1), (64, 1), (128, 2)),
  'mean': (127.5, 127.5, 127.5),
  'std': (127.5, 127.5, 127.5),
}
TIMM_NF_RESNET = {
  f'nf_{prefix}resnet{depth}': NF_RESNET['nf_resnet_50']
  | _SYMMETRIC
  | {
    'depths': RESNET_DEPTHS.get(depth, (2, 2, 2, 2)),
    'attention': attention,
    'pool_shortcut': True,
  }
  | ({'se_ratio': 1 / 16} if attention == 'se' else {})
  for prefix, attention in (('', 'none'), ('se', 'se'), ('eca', 'eca'))
  for depth in (26, 50, 101)
}
TIMM_NF_RESNET['nf_resnet50'] |= {
  'train_image_size': 256,
  'eval_image_size': 288,
  'eval_preprocessing': 'center_0.94',
}
_TIMM_REGNET_SIZES = (
  (192, 256), (256, 288), (240, 272), (288, 320), (320, 384), (384, 456),
)  # fmt: skip
TIMM_NF_REGNET = {
  f'timm/nf_regnet_b{n}': NF_REGNET[f'nf_regnet_b{n}']
  | _SYMMETRIC
  | {
    'channel_divisor': 8,
    'train_image_size': train,
    'eval_image_size': evaluation,
  }
  for n, (train, evaluation) in enumerate(_TIMM_REGNET_SIZES)
}
TIMM = TIMM_NFNET | TIMM_NF_RESNET | TIMM_NF_REGNET

ALL = (
  NFNET
  | NF_RESNET
  | NF_REGNET
  | RESNET
  | SKIPINIT_RESNET
  | FIXUP_RESNET
  | CIFAR_RESNET
  | TIMM
)


def canonical(name: str) -> str:
  """A name's key in `ALL`: `eca_nfnet_l0` for `timm/eca_nfnet_l0`."""
  bare = name.removeprefix('timm/')
  return bare if name not in ALL and bare in TIMM else name


def find(name: str) -> dict:
  """Returns the row of a variant, such as 'nfnet_f0'.

  timm's networks are known as `timm/NAME`, and also as NAME if no other network
  has that name: `timm/nfnet_f0` and `nfnet_f0` differ.

  Raises:
    ValueError: if the name is unknown; suggests the nearest names.
  """
  if (key := canonical(name)) in ALL:
    return ALL[key]
  bare = lambda text: text.lower().replace('_', '').replace('-', '')

  def likeness(known: str) -> float:
    asked, there = bare(name), bare(known)
    # People type 'F0' or 'resnet20', which are the ends of names.
    is_end = bool(asked) and there.endswith(asked)
    return is_end + difflib.SequenceMatcher(None, asked, there).ratio()

  # The sort is stable: equally near names keep the order of the tables.
  near = [known for known in ALL if likeness(known) >= 0.6]
  near = sorted(near, key=likeness, reverse=True)[:3]
  if near:
    raise ValueError(f'no model {name!r}: did you mean {" or ".join(near)}?')
  raise ValueError(f'no model {name!r}: nfnets.list_models() names all models')
