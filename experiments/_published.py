"""Published numbers that several experiments use, as literals.

Paper A is arXiv 2102.06171, paper B arXiv 2101.08692.
"""

# Paper A, Table 3: ImageNet top-1; ms per training step on TPUv3 (32 images per
# core, bfloat16) and on one V100 (float16), None where none is printed; and
# multiply-adds, for NFNets in `SIZES`.
TABLE_3 = {
  'f0': (83.6, 73.3, 56.7, ''),
  'f1': (84.7, 158.5, 133.9, ''),
  'f2': (85.1, 295.8, 226.3, ''),
  'f3': (85.7, 532.2, 524.5, ''),
  'f4': (85.9, 1033.3, 1190.6, ''),
  'f5': (86.0, 1398.5, 2177.1, ''),
  'f5_sam': (86.3, 1958.0, None, ''),
  'f6_sam': (86.5, 2774.1, None, ''),
  'resnet_50': (78.6, 41.6, 35.3, '4.10 G'),
  'EffNet-B0': (77.1, 51.1, 44.8, '0.39 G'),
  'SENet-50': (79.4, 64.3, 59.4, '4.09 G'),
  'EffNet-B3': (81.6, 129.5, 116.6, '1.80 G'),
  'LambdaNet-152': (83.0, 138.3, 135.2, ''),
  'SENet-152': (83.1, 149.9, 151.2, '19.04 G'),
  'BoTNet-110': (82.8, 181.3, None, '10.90 G'),
  'EffNet-B4': (82.9, 245.9, 221.6, '4.20 G'),
  'BoTNet-128-T5': (83.5, 355.2, None, '19.30 G'),
  'SENet-350': (83.8, 593.6, None, '52.90 G'),
  'EffNet-B5': (83.7, 450.5, 458.9, '9.90 G'),
  'LambdaNet-350': (84.5, 471.4, None, ''),
  'BoTNet-77-T6': (84.0, 578.1, None, '23.30 G'),
  'LambdaNet-420': (84.8, 593.9, None, ''),
  'EffNet-B6': (84.0, 775.7, 868.2, '19.00 G'),
  'BoTNet-128-T7': (84.7, 804.5, None, '45.80 G'),
  'EffNet-B7': (84.7, 1397.0, 1753.3, '37.00 G'),
  'DeiT, 1,000 epochs': (85.2, None, None, ''),
  'EffNet-B8 + MaxUp': (85.8, None, None, '62.50 G'),
}
# TPUv3 ms per step, by row, with those of paper A's Table 6.
STEP_MS = {row: cells[1] for row, cells in TABLE_3.items() if cells[1]} | {
  f'f{k}_{piece}': ms
  for piece, times in {
    'baseline': (58.0, 116.0, 211.7, 369.5),
    'width': (64.1, 133.9, 252.2, 441.5),
    'default_width': (65.9, 137.4, 248.8, 452.2),
    'batchnorm': (111.7, 258.0, 396.3, 617.7),
  }.items()
  for k, ms in enumerate(times)
}
# Parameters in M and multiply-adds in G at the evaluation size, as printed. P:
# paper A, Table 1. K: by the released code and its formula, in which odd sides
# halve to fractions.
SIZES = {
  'nfnet_f0': ('71.49', '12.38', 'P'),
  'nfnet_f1': ('132.63', '35.54', 'P'),
  'nfnet_f2': ('193.78', '62.59', 'P'),
  'nfnet_f3': ('254.92', '114.76', 'P'),
  'nfnet_f4': ('316.07', '215.24', 'P'),
  'nfnet_f5': ('377.21', '289.76', 'P'),
  'nfnet_f6': ('438.36', '377.28', 'P'),
  'nfnet_f7': ('499.50', '478.78', 'K'),
  'nfnet_f0_plus': ('118.82', '19.52', 'K'),
  'nfnet_f1_plus': ('220.36', '55.45', 'K'),
  'nfnet_f2_plus': ('321.89', '97.28', 'K'),
  'nfnet_f3_plus': ('423.42', '177.99', 'K'),
  'nfnet_f4_plus': ('524.95', '333.39', 'K'),
  'nfnet_f5_plus': ('626.49', '448.43', 'K'),
  'nfnet_f6_plus': ('728.02', '583.52', 'K'),
  'nfnet_f7_plus': ('829.55', '740.16', 'K'),
  'nf_regnet_b0': ('8.60', '0.444', 'K'),
  'nf_regnet_b1': ('10.02', '0.734', 'K'),
  'nf_regnet_b2': ('13.79', '1.099', 'K'),
  'nf_regnet_b3': ('18.14', '1.999', 'K'),
  'nf_regnet_b4': ('29.32', '4.467', 'K'),
  'nf_regnet_b5': ('48.71', '10.56', 'K'),
  'nf_regnet_b6': ('70.05', '19.69', 'K'),
  'nf_regnet_b7': ('101.74', '37.45', 'K'),
  'nf_regnet_b8': ('142.31', '63.72', 'K'),
  'nf_resnet_50': ('25.56', '4.09', 'K'),
  'nf_resnet_101': ('44.55', '7.80', 'K'),
  'nf_resnet_152': ('60.19', '11.51', 'K'),
  'nf_resnet_200': ('64.67', '15.01', 'K'),
  'nf_resnet_288': ('146.46', '21.56', 'K'),
  'nf_resnet_600': ('300.65', '44.27', 'K'),
  'resnet_50': ('25.55', '4.09', 'K'),
  'resnet_101': ('44.54', '7.80', 'K'),
  'resnet_152': ('60.19', '11.51', 'K'),
  'resnet_200': ('64.67', '15.01', 'K'),
  'resnet_288': ('146.45', '21.56', 'K'),
  'resnet_600': ('300.64', '44.27', 'K'),
}


def step_times(row: str) -> str:
  """The published times of a step on TPUv3 and a V100, as '73.3 / 56.7 ms'."""
  both = STEP_MS.get(row), TABLE_3.get(row, (None, None, None))[2]
  return f'{" / ".join(f"{ms:,}" if ms else "–" for ms in both)} ms'
