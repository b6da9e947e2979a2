# %% [markdown]
# # A tour of normalizer-free networks
#
# A pretrained network by name, what it sees in two photographs, and a
# fine-tune on a folder of pictures. Then what makes such networks work: the
# variance of a block, a gradient clipped unit by unit, and a small network
# trained with and without adaptive gradient clipping (AGC). Last, a file that
# runs without this package.
#
# Open it from a clone of the repository. It takes two minutes on two CPU cores.
# *Paper A* is Brock, De, Smith and Simonyan, arXiv 2102.06171; *paper B*, by
# the first three, arXiv 2101.08692.
#
# `tour.py` and `tour.ipynb` have the same content; CONTRIBUTING.md says how to
# keep them in step.

# %%
import contextlib
import io
import pathlib
import sys
import tempfile

for folder in (pathlib.Path.cwd(), pathlib.Path.cwd().parent):
  if (folder / 'nfnets').is_dir():  # the clone, whose configs are used below
    sys.path.insert(0, str(folder))

import cv2
import haiku as hk
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits, load_sample_images

import nfnets
from configs import finetune
from nfnets import models, optim, plots, train, weights
from nfnets.analysis import signal
from nfnets.data import augment
from nfnets.models import activations, layers
from nfnets.optim import agc_stats
from nfnets.weights import certificate, export, exported

plt.rcParams.update({'figure.dpi': 60, 'figure.figsize': (6, 3)})
workdir = pathlib.Path(tempfile.mkdtemp())
key = jax.random.key(0)

# %% [markdown]
# ## 1. A pretrained network, by name
#
# `nfnets.list_models(pretrained=True)` has the names of all public weights. The
# one below is the smallest, a download of 1.5 MB, made for trying things out;
# `eca_nfnet_l0.ra2_in1k` (97 MB) reaches 82.6 % on ImageNet. Any name can be
# put in its place.
#
# **Without a network connection** the cell says so and continues with random
# weights: the feature maps below are then those of random filters, and section
# 2 trains from scratch.

# %%
NAME = 'test_nfnet.r160_in1k'
try:
  source, is_pretrained = NAME, True
  net = nfnets.load(source)
  print(f'{NAME}: pretrained weights')
except ValueError as error:
  source, is_pretrained = workdir / 'random.safetensors', False
  weights.write(source, certificate.random_weights(NAME.split('.')[0]))
  net = nfnets.load(source)
  print(f'{NAME}: random weights, because {error}')

# %% [markdown]
# `preprocess` takes files, bytes or arrays and prepares them as the network was
# tested. A call returns logits, `features` the feature maps by stride: one
# pixel of stride 32 describes 32 x 32 pixels of the image. Each map has tens to
# hundreds of channels; red, green and blue show its three principal components.

# %%
photographs = load_sample_images().images  # uint8, [427, 640, 3]
images = net.preprocess(photographs)
probabilities = np.asarray(jax.nn.softmax(net(images)))
maps = net.features(images)


def principal_colors(features):
  """`[H, W, C]` to `[H, W, 3]` in 0..1: three principal components."""
  flat = np.reshape(features, (-1, features.shape[-1]))
  flat = flat - flat.mean(0)
  _, _, axes = np.linalg.svd(flat, full_matrices=False)
  components = flat @ axes[:3].T
  low, high = np.percentile(components, (2, 98), axis=0)
  colors = np.clip((components - low) / (high - low), 0, 1)
  return colors.reshape(*features.shape[:2], 3)


figure, rows = plt.subplots(
  2, 1 + len(maps), figsize=(15, 6), layout='constrained'
)
for index, axes in enumerate(rows):
  label = net.class_names[probabilities[index].argmax()]
  title = f'{label}, {probabilities[index].max():.0%}'
  axes[0].imshow(photographs[index])
  axes[0].set_title(title if is_pretrained else 'random weights: no class')
  for axis, (stride, features) in zip(axes[1:], maps.items()):
    axis.imshow(principal_colors(np.asarray(features[index])))
    axis.set_title(f'stride {stride}, {features.shape[-1]} channels')
  for axis in axes:
    axis.axis('off')
plt.show()

# %% [markdown]
# ## 2. Fine-tune it on a folder of pictures
#
# The data are a folder per class: here 400 of scikit-learn's handwritten
# digits, as PNG files. `configs/finetune.py` takes what it leaves open from the
# weights and the folder, and holds out a fifth of each class. The call is the
# one that `python -m scripts.train --config=configs/finetune.py
# --config.weights=NAME --config.data.data_dir=FOLDER` makes; what it prints is
# left out here.

# %%
digits = load_digits()
pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
pixels = pixels[..., None].repeat(3, -1)  # [N, 8, 8, 3]
large = [cv2.resize(x, (48, 48), interpolation=cv2.INTER_CUBIC) for x in pixels]
for index in range(400):
  folder = workdir / 'pictures' / str(digits.target[index])
  folder.mkdir(parents=True, exist_ok=True)
  cv2.imwrite(str(folder / f'{index}.png'), large[index])

config = finetune.get_config()
config.weights = str(source)
config.data.data_dir = str(workdir / 'pictures')
config.data.train_image_size = config.data.eval_image_size = 48
config.data.crop, config.data.flip = 'pad4', False  # a digit isn't symmetric
config.num_epochs = 10.0
if not is_pretrained:
  config.learning_rate, config.optimizer.clipping = 0.1, 0.1
run = workdir / 'run'
with contextlib.redirect_stdout(io.StringIO()):
  train.train_and_evaluate(config, run)

plt.figure(figsize=(12, 4))
plt.imshow(plt.imread(run / 'curves.png'))
plt.axis('off')
plt.show()

# %% [markdown]
# A run's folder is loaded like a name. These digits weren't in the folder; a
# wrong answer is red.

# %%
tuned = nfnets.load(run)
unseen = slice(400, 800)
images = tuned.preprocess(large[unseen])
answers = np.asarray(tuned(images)).argmax(-1)
figure, axes = plt.subplots(2, 12, figsize=(12, 2.6), layout='constrained')
for axis, picture, answer, truth in zip(
  axes.flat, large[unseen], answers, digits.target[unseen]
):
  axis.imshow(picture)
  axis.set_title(
    tuned.class_names[answer], color='black' if answer == truth else 'red'
  )
  axis.axis('off')
plt.show()
accuracy = np.mean(answers == digits.target[unseen])
print(f'fine-tuned: accuracy {accuracy:.1%} on {len(answers)} other digits')

# %% [markdown]
# ## 3. A block and its variance
#
# A normalizer-free block computes `x + alpha * branch(x / s)`, where `s` is the
# expected standard deviation of `x`. If the branch preserves variance 1, every
# block adds `alpha ** 2` to the variance, which is therefore known in advance
# (paper B, section 3). Two things preserve it: scaled weight standardization,
# and activations multiplied by a constant `gamma`. Here is a block written out;
# those in `nfnets/models/` add a gate, a skip gain, stochastic depth and
# shortcuts that change the shape. (Zero padding makes the measured variances
# slightly smaller than expected.)


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
  """A stem and eight blocks; `signal` recognizes a block by its `branch`."""

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


noise = jax.random.normal(key, (8, 32, 32, 3))
measured = signal.measure(normalizer_free, key, noise)
for row in measured:
  print(
    f'{row.block:16} branch {row.branch_variance:.2f}   '
    f'output {row.variance:.2f}, expected {row.expected_variance:.2f}'
  )

# %% [markdown]
# ## 4. Break it, and detect that
#
# The same block with a plain ReLU, and with plain convolutions under a common
# initialization. The variance of the branch is no longer 1: the signal fades or
# explodes, and the loss alone doesn't show why. `signal.check_contract` does;
# call it in the tests of a block of your own.


# %%
def without_gamma():
  return Stage(layers.WSConv2D, activations.get('relu', scaled=False))


def without_standardization():
  wide = hk.initializers.VarianceScaling(4.0, 'fan_in', 'normal')
  conv = lambda *args, name: layers.Conv2D(*args, w_init=wide, name=name)
  return Stage(conv, activations.get('relu'))


signal.check_contract(normalizer_free, key)
print('normalizer-free: keeps its variance\n')
figure, axis = plt.subplots()
stages = (normalizer_free, without_gamma, without_standardization)
for build in stages:
  rows = signal.measure(build, key, noise)
  name = build.__name__.replace('_', ' ')
  axis.semilogy([row.variance for row in rows], 'o-', label=name)
  if build is not normalizer_free:
    try:
      signal.check_contract(build, key)
    except ValueError as error:
      print(f'{name}: {error}\n')
axis.semilogy([row.expected_variance for row in rows], 'k--', label='expected')
axis.set(xlabel='block', ylabel='variance of its output')
axis.legend()
plt.show()

# %% [markdown]
# ## 5. Clip a gradient, unit by unit
#
# A unit is the set of weights that feed one output. AGC scales its gradient so
# that the norm is at most `clipping` times the norm of the weights (paper A,
# equation 3). By hand for a convolution with 6 units, and by the library:

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
# ## 6. Train a small network with and without AGC
#
# A normalizer-free ResNet-14 on the digits at their own 8 x 8 pixels: 60 steps
# of the published chain (AGC, weight decay, Nesterov momentum), written out, at
# a learning rate that is too large without clipping.

# %%
statistics = {'mean': [128.0] * 3, 'std': [128.0] * 3}
small = np.asarray(augment.normalize(pixels, **statistics))
seen, test = slice(0, 1437), slice(1437, None)

network = models.create(
  'cifar_resnet_20', 10, normalizer='nf', depths=(2, 2, 2), skipinit_gain=0.5
)
init = jax.jit(network.init, static_argnums=2)
first_params, state = init(key, small[:2], True)
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
    batch = order.choice(len(small[seen]), batch_size, replace=False)
    params, opt_state, row = step(
      params, opt_state, small[batch], digits.target[batch]
    )
    rows.append({'step': index, **jax.tree.map(float, row)})
  return params, rows


def accuracy_of(params):
  output, _ = apply(params, state, None, small[test], False)
  answers = np.argmax(output['logits'], axis=-1)
  return float(np.mean(answers == digits.target[test]))


figure, axis = plt.subplots()
runs = {'without AGC': fit(None), 'with AGC, 0.04': fit(0.04)}
for name, (params, rows) in runs.items():
  text = f'{name}: test accuracy {accuracy_of(params):.1%}'
  axis.semilogy([row['loss'] for row in rows], label=text)
  print(text)
axis.set(xlabel='step', ylabel='loss')
axis.legend()
plt.show()

# %% [markdown]
# ## 7. Look into the clipping
#
# `agc_stats.observe` measures the share of clipped units in each layer. Where
# nearly all are clipped, the gradient contributes only its direction; where
# none is, AGC does nothing. `scripts.train` draws this picture for a run with
# `--config.observe_every=10`.

# %%
params, rows = runs['with AGC, 0.04']
plots.heat_map(rows, workdir / 'clipping.png', 'AGC 0.04 on digits')
plt.figure(figsize=(10, 4))
plt.imshow(plt.imread(workdir / 'clipping.png'))
plt.axis('off')
plt.show()
print(agc_stats.warning(rows[-1], 0.04) or 'some units are clipped, not all')

# %% [markdown]
# ## 8. Export, and run without this package
#
# `export.write` first folds the network: standardized weights and their gains
# become plain weights. It then loads the file, and keeps it only if it computes
# the network's logits.
# `exported.load` is in a file that needs nothing else of `nfnets`: copy it
# beside the network.

# %%
path = workdir / 'digits.zip'
written = export.write(path, weights.load(run), 'stablehlo')
print(
  f'{path.name}: {written.size / 1024:.0f} KiB, logits differ by '
  f'{written.error:.1e} of the largest'
)
reloaded = exported.load(str(path))
print('takes', reloaded.description['input'])
answers = reloaded.run(images).argmax(-1)
accuracy = np.mean(answers == digits.target[unseen])
print(f'exported: accuracy {accuracy:.1%} on {len(answers)} other digits')

# %% [markdown]
# ## Where next
#
# - `./scripts/quickstart.sh` trains on the digits properly.
# - README.md: CIFAR-10, ImageNet, fine-tuning on a folder of pictures.
# - `examples/agc_any_optimizer.py`: AGC before any optax optimizer, on a
#   network from elsewhere.
# - `nfnets/models/nfnet.py`: the networks of paper A, to read top to bottom.
