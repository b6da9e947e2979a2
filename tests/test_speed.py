"""Measured steps are kept, found again and shown."""

import json

from nfnets.bench import report, speed

ASKED = {
  'model': 'nfnet_f0', 'batch_size': 4, 'image_size': 192, 'mode': 'train',
  'precision': 'float32', 'clip': 'agc', 'ema': False, 'overrides': {},
  'against': None, 'device': 'cpu',
}  # fmt: skip
MEASURED = ASKED | {
  'seconds': {'low': 1.1, 'median': 1.25, 'high': 1.5, 'fastest': 1.0},
  'images_per_second': 3.2,
  'steps': 12,
  'trace_seconds': 2.0,
  'compile_seconds': 30.0,
  'peak_bytes': 3 * 2**30,
  'peak_source': 'compiler',
  'utilization': 0.704,
}
COMPARED = ASKED | {
  'against': 'timm',
  'ours': [1.0, 1.2, 1.1],
  'theirs': [1.0, 1.0, 1.1],
  'ratio': {'median': 1.0, 'low': 1.0, 'high': 1.2},
  'peer': 'dm_nfnet_f0',
  'peer_about': {'compile': 'none', 'versions': {'torch': '2.13'}},
}


def where():
  return {'command': 'COMMAND'} | report.circumstances()


def test_a_record_is_written_after_each_result_and_gone_on_with(tmp_path):
  path = tmp_path / 'deep' / 'speed.json'
  first = speed.Record(str(path), where())
  first.add(MEASURED)
  assert json.loads(path.read_text())['results'][0]['steps'] == 12
  again = speed.Record(str(path), where())
  assert again.find(ASKED)['steps'] == 12
  for key, value in {'batch_size': 8, 'device': 'TPU v4', 'ema': True}.items():
    assert again.find(ASKED | {key: value}) is None
  again.add(MEASURED | {'steps': 13})
  assert [r['steps'] for r in speed.Record(str(path), {}).results] == [13]


def test_what_failed_is_asked_again():
  record = speed.Record(None, where())
  record.add(ASKED | {'error': 'RESOURCE_EXHAUSTED: out of memory'})
  assert record.find(ASKED) is None and len(record.results) == 1


def test_the_page_shows_command_hardware_and_every_number():
  record = speed.Record(None, where())
  for result in (MEASURED, COMPARED, ASKED | {'error': 'out of memory',
                                             'batch_size': 999}):  # fmt: skip
    record.add(result)
  page = speed.page('F0', record.results)
  assert page.count('    COMMAND') == 1 and report.describe(where())[:9] in page
  for cell in ('1,250', '1,100 to 1,500', '3.20', '2.0 + 30.0', '70.4 %',
               '3.00 (compiler)', 'out of memory'):  # fmt: skip
    assert f' {cell} |' in page
  assert '| 1.00 | 1.00 to 1.20 |' in ' '.join(page.split())
  assert 'dm_nfnet_f0, eager, torch 2.13' in page


def test_a_line_says_what_and_how_fast():
  assert speed.line(MEASURED) == (
    'nfnet_f0, train, agc, 192, 4, float32: 1,250 ms'
  )
  assert speed.line(COMPARED).endswith(': 1.000 of dm_nfnet_f0')
