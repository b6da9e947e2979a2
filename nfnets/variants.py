"""Every family's published table as literals; imports nothing of ours.

A row's keys are a network's arguments (`depths`, `widths`, `drop_rate`,
`stochdepth_rate`) and what training and evaluation read (`train_image_size` and
`eval_image_size` in pixels, RandAugment's layers and magnitude, weight decay).
Paper A is arXiv 2102.06171 (NFNets), paper B arXiv 2101.08692 (NF-ResNets).
timm's networks are rows too: a row may hold any argument of its network.
"""

import difflib


def _table(columns: tuple[str, ...], rows: dict, **common: object) -> dict:
  return {
    name: dict(zip(columns, row, strict=True)) | common
    for name, row in rows.items()
  }


# Paper A, Table 1 and section A.1; F7 and the plus widths: the released code.
_F_COLUMNS = (
  'depths',
  'train_image_size',
  'eval_image_size',
  'drop_rate',
  'randaugment_magnitude',
)
_F_ROWS = {
  'f0': ((1, 2, 6, 3), 192, 256, 0.2, 5),
  'f1': ((2, 4, 12, 6), 224, 320, 0.3, 10),
  'f2': ((3, 6, 18, 9), 256, 352, 0.4, 10),
  'f3': ((4, 8, 24, 12), 320, 416, 0.4, 15),
  'f4': ((5, 10, 30, 15), 384, 512, 0.5, 15),
  'f5': ((6, 12, 36, 18), 416, 544, 0.5, 15),
  'f6': ((7, 14, 42, 21), 448, 576, 0.5, 15),
  'f7': ((8, 16, 48, 24), 480, 608, 0.5, 15),
}
_F_COMMON = {'stochdepth_rate': 0.25, 'randaugment_layers': 4}
NFNET = _table(
  _F_COLUMNS,
  {f'nfnet_{name}': row for name, row in _F_ROWS.items()},
  widths=(256, 512, 1536, 1536),
  **_F_COMMON,
) | _table(
  _F_COLUMNS,
  {f'nfnet_{name}_plus': row for name, row in _F_ROWS.items()},
  widths=(384, 768, 2048, 2048),
  **_F_COMMON,
)

# Paper A, Table 2: the ResNet widths before the paper modified them.
NFNET_DEFAULT_WIDTHS = (256, 512, 1024, 2048)

# Paper B, appendix. Widths before the multiplier 0.75; weight decay as released
# (None: the release has none for B6 to B8).
NF_REGNET = _table(
  (
    'widths',
    'depths',
    'train_image_size',
    'eval_image_size',
    'drop_rate',
    'weight_decay',
  ),
  {
    'nf_regnet_b0': ((48, 104, 208, 440), (1, 3, 6, 6), 192, 224, 0.2, 5e-5),
    'nf_regnet_b1': ((48, 104, 208, 440), (2, 4, 7, 7), 224, 256, 0.2, 6e-5),
    'nf_regnet_b2': ((56, 112, 232, 488), (2, 4, 8, 8), 240, 272, 0.3, 7e-5),
    'nf_regnet_b3': ((56, 128, 248, 528), (2, 5, 9, 9), 288, 320, 0.3, 8e-5),
    'nf_regnet_b4': ((64, 144, 288, 616), (2, 6, 11, 11), 320, 384, 0.4, 9e-5),
    'nf_regnet_b5': ((80, 168, 336, 704), (3, 7, 14, 14), 384, 456, 0.4, 1e-4),
    'nf_regnet_b6': ((88, 184, 376, 792), (3, 8, 16, 16), 448, 528, 0.5, None),
    'nf_regnet_b7': ((96, 208, 416, 880), (4, 10, 19, 19), 512, 600, 0.5, None),
    'nf_regnet_b8': (
      (104, 232, 456, 968),
      (4, 11, 22, 22),
      600,
      672,
      0.5,
      None,
    ),
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


def _resnets(prefix: str, stochdepth_rate: float) -> dict:
  return _table(
    ('depths',),
    {f'{prefix}_{depth}': (row,) for depth, row in RESNET_DEPTHS.items()},
    widths=(256, 512, 1024, 2048),
    train_image_size=224,
    eval_image_size=224,
    drop_rate=0.0,
    stochdepth_rate=stochdepth_rate,
  )


NF_RESNET = _resnets('nf_resnet', stochdepth_rate=0.1)  # nf_resnet.py:36
RESNET = _resnets('resnet', stochdepth_rate=0.0)
SKIPINIT_RESNET = _resnets('skipinit_resnet', stochdepth_rate=0.1)
FIXUP_RESNET = _resnets('fixup_resnet', stochdepth_rate=0.1)

# He et al., arXiv 1512.03385, section 4.2: 6n + 2 layers.
CIFAR_RESNET = _table(
  ('depths',),
  {
    'cifar_resnet_20': ((3, 3, 3),),
    'cifar_resnet_32': ((5, 5, 5),),
    'cifar_resnet_44': ((7, 7, 7),),
    'cifar_resnet_56': ((9, 9, 9),),
    'cifar_resnet_110': ((18, 18, 18),),
  },
  widths=(16, 32, 64),
  num_classes=10,
  train_image_size=32,
  eval_image_size=32,
  drop_rate=0.0,
  stochdepth_rate=0.0,
)

# timm's networks: facts of timm 1.0.31 (models/nfnet.py and its default_cfgs).
# Rates of dropout and stochastic depth are the published variants', since timm
# leaves them to the recipe. An `eval_preprocessing` is of `data.images`.
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
_LIGHT_COLUMNS = (
  'depths',
  'train_image_size',
  'eval_image_size',
  'eval_preprocessing',
  'attention',
  'final_ratio',
)
_LIGHT_ROWS = {
  'nfnet_l0': ((1, 2, 6, 3), 224, 288, 'center_1.0', 'se', 1.5),
  'eca_nfnet_l0': ((1, 2, 6, 3), 224, 288, 'center_1.0', 'eca', 1.5),
  'eca_nfnet_l1': ((2, 4, 12, 6), 256, 320, 'center_1.0', 'eca', 2.0),
  'eca_nfnet_l2': ((3, 6, 18, 9), 320, 384, 'center_1.0', 'eca', 2.0),
  'eca_nfnet_l3': ((4, 8, 24, 12), 352, 448, 'center_1.0', 'eca', 2.0),
  'test_nfnet': ((1, 1, 1, 1), 160, 160, 'center_0.95', 'se', 1.5),
}
TIMM_NFNET = (
  {
    f'dm_nfnet_f{n}': NFNET[f'nfnet_f{n}']
    | _GELU
    | {'ws_eps': 'timm', 'eval_preprocessing': f'squash_{crop}'}
    for n, crop in enumerate(_DM_CROPS)
  }
  | {
    f'timm/nfnet_f{n}': NFNET[f'nfnet_f{n}'] | _SYMMETRIC | _GELU
    for n in range(8)
  }
  | {
    name: _LIGHT | row
    for name, row in _table(_LIGHT_COLUMNS, _LIGHT_ROWS).items()
  }
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
  """The key of `ALL`: `timm/eca_nfnet_l0` is `eca_nfnet_l0`, timm's alone."""
  bare = name.removeprefix('timm/')
  return bare if name not in ALL and bare in TIMM else name


def find(name: str) -> dict:
  """Returns the row of a model's name, such as 'nfnet_f0'.

  timm's names are known too: `timm/NAME` all of them, NAME alone where no
  other network has it. `timm/nfnet_f0` and `nfnet_f0` differ.

  Raises:
    ValueError: for an unknown name, with the nearest known ones.
  """
  if (key := canonical(name)) in ALL:
    return ALL[key]
  bare = lambda text: text.lower().replace('_', '').replace('-', '')

  def likeness(known: str) -> float:
    asked, there = bare(name), bare(known)
    # 'F0' and 'resnet20' are ends of names.
    is_end = bool(asked) and there.endswith(asked)
    return is_end + difflib.SequenceMatcher(None, asked, there).ratio()

  # Sorting is stable: among equally near names the table's first come first.
  near = [known for known in ALL if likeness(known) >= 0.6]
  near = sorted(near, key=likeness, reverse=True)[:3]
  if near:
    raise ValueError(f'no model {name!r}: did you mean {" or ".join(near)}?')
  raise ValueError(
    f'no model {name!r}: names look like nfnet_f0, nfnet_f4_plus, nf_resnet_50,'
    ' nf_regnet_b0, resnet_50, skipinit_resnet_50, fixup_resnet_50, '
    'cifar_resnet_20 and timm/eca_nfnet_l0.'
  )
