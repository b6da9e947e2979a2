"""ImageNet's class names are where their labels say."""

from nfnets.weights import imagenet


def test_names_are_in_the_order_of_sorted_synsets():
  names, synsets = imagenet.imagenet_classes(), imagenet.imagenet_synsets()
  assert len(names) == len(synsets) == len(set(synsets)) == 1000
  assert synsets == sorted(synsets)
  assert all(names)


def test_known_labels_have_their_names():
  names = imagenet.imagenet_classes()
  # Labels as torchvision and TensorFlow Datasets number them.
  assert names[0].startswith('tench')
  assert names[281].startswith('tabby')
  assert names[285] == 'Egyptian cat'
  assert names[207] == 'golden retriever'
  assert names[999].startswith('toilet tissue')
