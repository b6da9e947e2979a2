# %% [markdown]
# # A tour of normalizer-free networks
#
# One block and its variance, a broken one and the alarm, a gradient clipped
# unit by unit, a small network trained with and without adaptive gradient
# clipping (AGC), what was clipped where, and the way out: folding, a
# prediction, and a file that runs without this package.
#
# Nothing is downloaded but the package; a laptop's CPU needs a few minutes.
# *Paper A* is Brock, De, Smith and Simonyan, arXiv 2102.06171; *paper B*, by
# the first three, arXiv 2101.08692.
#
# `tour.py` and `tour.ipynb` are the same; README.md says how to sync them.

# %%
import importlib.util
import pathlib
import subprocess
import sys

# In a hosted notebook, put this repository's address here. Where the package
# is at hand, in a checkout or installed, this cell does nothing.
REPOSITORY = ''

for folder in (pathlib.Path.cwd(), pathlib.Path.cwd().parent):
  if (folder / 'nfnets').is_dir() and str(folder) not in sys.path:
    sys.path.insert(0, str(folder))
if importlib.util.find_spec('nfnets') is None:
  clone = ['git', 'clone', '--depth=1', REPOSITORY, 'nfnets_source']
  subprocess.run(clone, check=True)
  install = [sys.executable, '-m', 'pip', 'install', '-q', './nfnets_source']
  subprocess.run(install, check=True)

# %%
import tempfile

import cv2
import haiku as hk
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from nfnets import models, optim, plots, weights
from nfnets.analysis import signal
from nfnets.data import augment
from nfnets.data.images import decode
from nfnets.models import activations, layers
from nfnets.optim import agc_stats
from nfnets.weights import export, exported, pictures

plt.rcParams.update({'figure.dpi': 60, 'figure.figsize': (6, 3)})
workdir = pathlib.Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. A block and its variance
#
# A normalizer-free block is `x + alpha * branch(x / s)`, where `s` is what the
# standard deviation of `x` is expected to be. If the branch keeps variance 1,
# every block adds `alpha ** 2`, and a stage of them can be foretold (paper B,
# section 3). Two things keep it: scaled weight standardization, and activations
# times a constant `gamma`. Here is one written out; those in `nfnets/models/`
# are longer by a gate, dropout and a strided shortcut. (At the border windows
# hang over the edge, which keeps the measured numbers a little lower.)


# %%
class Block(hk.Module):
  """x + alpha * conv(f(conv(f(x / s)))), a pre-activation basic block."""

  alpha = 0.5

  def __init__(self, conv, activation, name='block'):
    super().__init__(name)
    self.convs = [conv(32, 3, name='conv0'), conv(32, 3, name='conv1')]
    self.activation = activation

  def branch(self, x):
    for conv in self.convs:
      x = conv(self.activation(x))
    return x

  def __call__(self, x, is_training, expected_std=1.0):
    return x + self.alpha * self.branch(x / expected_std)


class Stage(hk.Module):
  """A stem and eight blocks, which `signal` knows by their `branch`."""

  def __init__(self, conv, activation):
    super().__init__('Stage')
    self.stem = layers.WSConv2D(32, 3, name='stem')
    self.blocks = [[Block(conv, activation) for _ in range(8)]]
    stds = np.sqrt(1 + Block.alpha**2 * np.arange(8))
    self.numbers = [[{'expected_std': float(std)} for std in stds]]

  def __call__(self, images, is_training):
    x = self.stem(images)
    for block, numbers in zip(self.blocks[0], self.numbers[0]):
      x = block(x, is_training, **numbers)
    return x


def normalizer_free():
  return Stage(layers.WSConv2D, activations.get('relu'))


key = jax.random.key(0)
noise = jax.random.normal(key, (8, 32, 32, 3))
measured = signal.measure(normalizer_free, key, noise)
for row in measured:
  print(
    f'{row.block:16} branch {row.branch_variance:.2f}   '
    f'output {row.variance:.2f}, expected {row.expected_variance:.2f}'
  )

# %% [markdown]
# ## 2. Break it, and hear the alarm
#
# The same block with a plain ReLU, and with plain convolutions initialized as
# they often are. The branch's variance is no longer 1, so blocks fade or grow,
# and nothing in the loss would say so. `signal.check_contract` does: put it in
# the tests of a block of your own.


# %%
def without_gamma():
  return Stage(layers.WSConv2D, activations.get('relu', scaled=False))


def without_standardization():
  wide = hk.initializers.VarianceScaling(4.0, 'fan_in', 'normal')
  conv = lambda *args, name: layers.Conv2D(*args, w_init=wide, name=name)
  return Stage(conv, activations.get('relu'))


signal.check_contract(normalizer_free, key)
print('normalizer-free: as it should be\n')
figure, axis = plt.subplots()
stages = (normalizer_free, without_gamma, without_standardization)
for build in stages:
  rows = signal.measure(build, key, noise)
  name = build.__name__.replace('_', ' ')
  axis.semilogy([row.variance for row in rows], 'o-', label=name)
  if build is not normalizer_free:
    try:
      signal.check_contract(build, key)
    except ValueError as alarm:
      print(f'{name}: {alarm}\n')
axis.semilogy([row.expected_variance for row in rows], 'k--', label='expected')
axis.set(xlabel='block', ylabel='variance of its output')
axis.legend()
plt.show()

# %% [markdown]
# ## 3. Clip a gradient, unit by unit
#
# A unit is all the weights that feed one output. AGC holds the norm of its
# gradient below `clipping` times the norm of its weights (paper A, equation 3).
# By hand for a convolution of 6 units, with gradients from small to large:

# %%
random = np.random.RandomState(0)
kernel = random.randn(3, 3, 4, 6).astype(np.float32)  # [kh, kw, in, out]
grad = kernel * np.array([0.01, 0.03, 0.1, 0.3, 1, 3], np.float32)
clipping, eps = 0.1, 1e-3

by_hand = grad.copy()
for unit in range(6):
  size = max(np.linalg.norm(kernel[..., unit]), eps)
  ratio = np.linalg.norm(grad[..., unit]) / size
  if ratio > clipping:
    by_hand[..., unit] *= clipping / ratio

clip = optim.adaptive_grad_clip(clipping, eps)
params = {'conv': {'w': kernel}}
by_agc, _ = clip.update({'conv': {'w': grad}}, clip.init(params), params)
np.testing.assert_allclose(by_agc['conv']['w'], by_hand, rtol=1e-5)


def ratios(updates):
  norms = np.linalg.norm(kernel.reshape(-1, 6), axis=0)
  return np.linalg.norm(np.reshape(updates, (-1, 6)), axis=0) / norms


print('|G| / |W| before', ratios(grad).round(3))
print('           after', ratios(by_hand).round(3))

# %% [markdown]
# ## 4. Train a small network with and without AGC
#
# A normalizer-free ResNet-14 on scikit-learn's handwritten digits, 60 steps of
# the published chain (AGC, weight decay, Nesterov momentum) at a learning rate
# that is too large without clipping. `python -m scripts.train` does this in
# earnest: data pipeline, several devices, checkpoints, evaluation.

# %%
digits = load_digits()
pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
pixels = pixels[..., None].repeat(3, -1)  # [N, 8, 8, 3]
statistics = {'mean': [128.0] * 3, 'std': [128.0] * 3}
images = np.asarray(augment.normalize(pixels, **statistics))
train, test = slice(0, 1437), slice(1437, None)

overrides = {'normalizer': 'nf', 'depths': (2, 2, 2), 'skipinit_gain': 0.5}
network = models.create('cifar_resnet_20', 10, **overrides)
init = jax.jit(network.init, static_argnums=2)
first_params, state = init(key, images[:2], True)
apply = jax.jit(network.apply, static_argnums=4)


def fit(clipping, num_steps=60, batch_size=128):
  """Returns the parameters and one row of numbers per step."""
  schedule = optim.warmup_cosine(0.4, num_steps, warmup_steps=5)
  optimizer = optim.sgd(schedule, weight_decay=5e-4, clipping=clipping)

  def loss_fn(params, images, labels):
    output, _ = network.apply(params, state, None, images, True)
    labels = jax.nn.one_hot(labels, 10)
    return optax.softmax_cross_entropy(output['logits'], labels).mean()

  @jax.jit
  def step(params, opt_state, images, labels):
    loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
    row = {'loss': loss}
    if clipping is not None:
      row |= agc_stats.observe(params, grads, clipping)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return jax.tree.map(jnp.add, params, updates), opt_state, row

  params, rows = first_params, []
  opt_state = optimizer.init(params)
  order = np.random.RandomState(0)
  for index in range(num_steps):
    batch = order.choice(len(images[train]), batch_size, replace=False)
    params, opt_state, row = step(
      params, opt_state, images[batch], digits.target[batch]
    )
    rows.append({'step': index, **jax.tree.map(float, row)})
  return params, rows


def accuracy(params):
  output, _ = apply(params, state, None, images[test], False)
  found = np.argmax(output['logits'], axis=-1)
  return float(np.mean(found == digits.target[test]))


figure, axis = plt.subplots()
runs = {'without AGC': fit(None), 'with AGC, 0.04': fit(0.04)}
for name, (params, rows) in runs.items():
  text = f'{name}: test accuracy {accuracy(params):.1%}'
  axis.semilogy([row['loss'] for row in rows], label=text)
  print(text)
axis.set(xlabel='step', ylabel='loss')
axis.legend()
plt.show()

# %% [markdown]
# ## 5. Look into the clipping
#
# `agc_stats.observe` tells the share of clipped units, by layer. If nearly all
# are, the gradient only gives the direction; if none is, AGC does nothing.
# Training by `scripts.train` with `--config.observe_every=10` draws this by
# itself.

# %%
params, rows = runs['with AGC, 0.04']
plots.heat_map(rows, workdir / 'clipping.png', 'AGC 0.04 on digits')
plt.figure(figsize=(10, 4))
plt.imshow(plt.imread(workdir / 'clipping.png'))
plt.axis('off')
plt.show()
print(agc_stats.warning(rows[-1], 0.04) or 'neither all nor none is clipped')

# %% [markdown]
# ## 6. Fold
#
# For inference, standardized weights, gains, `gamma`, `alpha` and expected
# standard deviations become plain weights. The logits stay.

# %%
data = statistics | {'eval_image_size': 8, 'eval_preprocessing': 'none'}
data['class_names'] = [str(label) for label in range(10)]
kept = weights.Weights(params, state, 'cifar_resnet_20', 10, overrides, data)
folded = weights.fold_weights(kept)
plain = models.create('cifar_resnet_20', 10, **folded.overrides)

before, _ = network.apply(params, state, None, images[test][:8], False)
after, _ = plain.apply(folded.params, {}, None, images[test][:8], False)
size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
print(f'{size(kept.params):,} numbers become {size(folded.params):,}')
print(
  f'logits differ by {np.abs(before["logits"] - after["logits"]).max():.1e}'
)

# %% [markdown]
# ## 7. Predict on a photograph
#
# The network knows digits alone, so the photograph is one: a digit that it
# hasn't seen, on paper, with a camera's noise, saved as JPEG. The way of the
# picture is that of `python -m scripts.predict --weights=FILE PHOTO.jpg`; with
# the published NFNet weights, the same command names ImageNet's classes.

# %%
digit = cv2.resize(pixels[test][10], (200, 200), interpolation=cv2.INTER_CUBIC)
photo = np.clip(digit + random.normal(0, 12, digit.shape), 0, 255)
cv2.imwrite(str(workdir / 'photo.jpg'), photo.astype(np.uint8)[..., ::-1])

picture = decode((workdir / 'photo.jpg').read_bytes())
small = cv2.resize(picture, (8, 8), interpolation=cv2.INTER_AREA)
inputs = augment.normalize(small[None], **pictures.statistics(folded))
output, _ = plain.apply(folded.params, {}, None, inputs, False)
shares = np.asarray(jax.nn.softmax(output['logits']))[0]

figure, (left, right) = plt.subplots(1, 2)
left.imshow(picture)
left.axis('off')
right.barh(data['class_names'], shares)
right.set(xlabel='probability', ylabel='class')
plt.show()
print(f'this is a {shares.argmax()}; labelled {digits.target[test][10]}')

# %% [markdown]
# ## 8. Export, and run without this package
#
# `export.write` folds by itself, and leaves a file only if another process that
# can't import `nfnets` gets the same logits from it. `exported.load` stands in
# a file of its own that needs nothing of `nfnets`: copy it beside the network.

# %%
path = workdir / 'digits.zip'
written = export.write(path, kept, 'stablehlo')
print(
  f'{path.name}: {written.size / 1024:.0f} KiB, logits differ by '
  f'{written.error:.1e} of the largest'
)
reloaded = exported.load(str(path))
print('takes', reloaded.description['input'])
found = reloaded.run(images[test]).argmax(-1)
print(f'test accuracy {np.mean(found == digits.target[test]):.1%}')

# %% [markdown]
# ## Where next
#
# - `./scripts/quickstart.sh` trains on the digits properly.
# - README.md: CIFAR-10, ImageNet, fine-tuning on a folder of pictures.
# - `examples/agc_any_optimizer.py`: AGC before an optimizer and on a network
#   from elsewhere.
# - `nfnets/models/nfnet.py`: the networks of paper A, read top to bottom.
