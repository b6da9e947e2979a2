"""The Hugging Face Hub and DeepMind's storage, on localhost, for tests."""

import contextlib
import hashlib
import http.server
import json
import threading

import safetensors.numpy

from nfnets.weights import certificate, timm

COMMIT = 'c' * 40


def config_of(name, *, num_classes=1000, size=64, **changes):
  """A config.json of the form that timm writes."""
  return {
    'architecture': name,
    'num_classes': num_classes,
    'num_features': 192,
    'pretrained_cfg': {
      'tag': 'r160_in1k', 'custom_load': False, 'input_size': [3, size, size],
      'fixed_input_size': False, 'interpolation': 'bicubic', 'crop_pct': 0.95,
      'crop_mode': 'center', 'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5],
      'num_classes': num_classes, 'pool_size': [5, 5],
      'first_conv': 'stem.conv1', 'classifier': 'head.fc',
    } | changes,
  }  # fmt: skip


def write_repository(folder, name='test_nfnet', num_classes=1000, **config):
  """config.json and model.safetensors as timm's repositories have them."""
  folder.mkdir(parents=True)
  weights = certificate.random_weights(name, num_classes)
  arrays = timm.to_timm(weights.params, name)
  safetensors.numpy.save_file(arrays, folder / 'model.safetensors')
  config = config_of(name, num_classes=num_classes, **config)
  (folder / 'config.json').write_text(json.dumps(config))
  return weights


class _Handler(http.server.BaseHTTPRequestHandler):
  """`/OWNER/NAME/resolve/REVISION/FILE` as the Hub answers; else files."""

  def do_HEAD(self):
    self._answer()

  def do_GET(self):
    self._answer()

  def _answer(self):
    parts = self.path.strip('/').split('/')
    is_hub = len(parts) == 5 and parts[2] == 'resolve'
    path = self.server.root.joinpath(
      *([*parts[:2], parts[4]] if is_hub else parts)
    )
    self.server.asked.append(f'{self.command} {self.path}')
    if not path.is_file():
      self.send_response(404)
      if is_hub:
        self.send_header('X-Error-Code', 'RepoNotFound')
      self.send_header('Content-Length', '0')
      self.end_headers()
      return
    data = path.read_bytes()
    self.send_response(200)
    if is_hub:
      large = path.suffix == '.safetensors'
      digest = hashlib.new('sha256' if large else 'sha1', data).hexdigest()
      self.send_header('X-Repo-Commit', COMMIT)
      self.send_header('ETag', f'"{digest}"')
      if large:
        self.send_header('X-Linked-Size', str(len(data)))
        self.send_header('X-Linked-ETag', f'"{digest}"')
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(self.server.spoil(path.name, data))

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def serve(root):
  """Serves a folder.

  Yields:
    The server: `url`, `asked` (the requests), and `spoil`, which may be set to
    a function that damages what is sent.
  """
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
  server.root, server.asked = root, []
  server.spoil = lambda name, data: data
  server.url = f'http://127.0.0.1:{server.server_port}'
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  try:
    yield server
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
