"""What a file of weights says of the pictures it wants."""

import json

import numpy as np
import pytest

from nfnets import weights
from nfnets.data import augment
from nfnets.weights import pictures


def _weights(model='cifar_resnet_20', num_classes=3, **data):
  return weights.Weights({}, {}, model, num_classes, {}, data)


def test_names_come_from_the_weights_or_imagenet_or_numbers():
  own = _weights(class_names=['cat', 'dog', 'eel'])
  assert pictures.class_names(own) == ['cat', 'dog', 'eel']
  assert pictures.class_names(_weights()) == ['class 0', 'class 1', 'class 2']
  published = _weights('nfnet_f0', 1000)
  assert pictures.class_names(published)[207] == 'golden retriever'


@pytest.mark.parametrize(
  'model, name, size',
  [
    ('nfnet_f1', 'resize_crop_32', 320),
    ('nf_regnet_b0', 'crop_resize', 224),
    ('resnet_50', 'crop_resize', 224),
  ],
)
def test_published_networks_are_prepared_for_as_published(model, name, size):
  found = pictures.preparation(_weights(model), None)
  assert (found['resize'], found['image_size']) == (name, size)
  assert pictures.preparation(_weights(model), 45)['image_size'] == 45


def test_every_crop_has_its_rule_in_words_and_the_right_size():
  assert pictures.CROPS.keys() == pictures.RULES.keys()
  image = np.random.RandomState(0).randint(0, 255, (50, 61, 3), np.uint8)
  for crop in pictures.CROPS.values():
    assert crop(image, 45).shape == (45, 45, 3)


def test_the_formula_with_the_constants_is_what_networks_are_trained_with():
  kept = _weights(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
  pixels = np.random.RandomState(0).randint(0, 255, (1, 5, 5, 3), np.uint8)
  for weights_ in (kept, _weights()):
    found = json.loads(json.dumps(pictures.preparation(weights_, None)))
    images = (pixels - np.array(found['mean'])) / np.array(found['std'])
    wanted = augment.normalize(pixels, **pictures.statistics(weights_))
    np.testing.assert_allclose(images, wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(wanted, augment.normalize(pixels))
