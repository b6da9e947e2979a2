"""The claims of the report that the study tests, and the checks that decide.

The report is Thakur's *Exploring Adaptive Gradient Clipping and NFNets* (2021),
"a minimal ablation study". Its claims are in our words;
the last ones come from the papers that it discusses. Each maps to one or more
checks, (experiment, check).
"""

NONE, NF = 'no normalization, AGC', 'normalizer-free, AGC, skip gains exempt'
SENTENCES = {
  'At batch 1,024 with lambda 0.01, AGC gives no model comparable to batch '
  'normalization': [('large_batch', 'AGC 0.01 is worse than BN')],
  'Its accuracy there is about that of no normalization': [
    ('large_batch', 'AGC 0.01 adds at most 1 point')
  ],
  'The result follows lambda, and 0.01 may be very tight': [
    ('large_batch', 'AGC 0.02 is better than 0.01')
  ],
  **{
    sentence: [
      ('agc_grid', f'{NONE}: {check}'),
      ('agc_grid', f'{NF}: {check}'),
      ('agc_sweep', f'{NONE}: {check}'),
    ]
    for sentence, check in {
      'Batch size correlates negatively with accuracy': (
        'batch size correlates negatively'
      ),
      'Lambda correlates positively with accuracy': (
        'lambda correlates positively'
      ),
      'Batch size matters more than lambda': 'batch size matters more',
      'Small batches need a larger lambda than large ones': (
        'small batches need a larger lambda'
      ),
    }.items()
  },
  'Batch normalization converges better': [
    ('headline', 'no normalization is worse than BN')
  ],
  'Batch normalization converges faster': [
    ('headline', 'no normalization is behind BN after a quarter of the run')
  ],
  'Batch normalization allows large learning rates': [
    ('pilot', 'no normalization needs a lower rate than BN'),
    ('learning_rate', 'at batch 128 BN allows a larger rate than NF'),
    ('learning_rate', 'at batch 1024 BN allows a larger rate than NF'),
  ],
  'Batch normalization allows large batches': [
    ('large_batch', 'no normalization is worse than BN')
  ],
  'Batch normalization removes the mean shift': [
    (
      'signal_propagation',
      'the squared mean exceeds the variance without normalization, not with '
      'BN',
    )
  ],
  "Batch normalization's accuracy falls as the batch grows": [
    (
      'batchnorm_batch_size',
      'at the better of two rates batch 2,048 is worse than 128',
    )
  ],
  'Plain gradient clipping is sensitive to its threshold': [
    ('clipping_threshold', f'at rate x {rate} the threshold matters')
    for rate in (1, 4)
  ],
  'NF-ResNet-50 beats ResNet-50 by about 15 points': [
    ('nf_resnet50_vs_resnet50', 'NF-ResNet-50 is better by more than 10 points')
  ],
  'AGC helps little at small batches (paper A)': [
    ('headline', 'AGC adds at most 1 point to NF')
  ],
  'The last linear layer should not be clipped (paper A)': [
    ('where_to_clip', 'leaving out the head costs at most 1 point')
  ],
  'The first convolution need not be clipped (paper A)': [
    ('where_to_clip', 'leaving out the stem too costs at most 1 point')
  ],
  'A fine-tuned network classifies Caltech-101': [
    ('transfer_caltech101', 'fine-tuning beats training from scratch')
  ],
}
