"""What scripts.plan prints."""

import pytest
import tiny

from nfnets import plan, pods
from scripts import plan as script


@pytest.fixture
def printed(set_flags, capsys):
  set_flags(script, abstract=True, images_per_core=100.0)

  def lines(topology, **values):
    config = tiny.config(**{'eval_batch_size': 16, **values})
    script.print_plan(config, topology)
    return capsys.readouterr().out.splitlines()

  return lines


@pytest.mark.parametrize(
  ('topology', 'says'),
  [
    ('v3:2x2', '4 chips, 8 devices (each a TPU v3 core), 1 host;'),
    ('v4:2x2x1', '4 chips, 4 devices (each a TPU v4 chip)'),
    ('v5e:2x2', '4 chips, 4 devices (each a TPU v5 lite chip)'),
    ('v5p:2x2x1', '4 chips, 4 devices (each a TPU v5 chip)'),
    ('v6e:2x2', '4 chips, 4 devices (each a TPU v6 lite chip)'),
  ],
)
def test_a_device_is_named_for_what_it_is(topology, says, printed):
  assert any(says in line for line in printed(topology))


def test_estimated_bytes_say_what_the_compiler_counts(printed):
  lines = printed('v5e:2x2')
  assert lines[0].startswith('estimated from shapes')
  index = next(i for i, line in enumerate(lines) if '  bytes ' in line)
  assert plan.BYTES in lines[index + 1]
  assert lines[-1] == 'it fits'


def test_compiled_bytes_need_no_such_note_but_of_loops(
  monkeypatch, set_flags, printed
):
  compiled = plan.Program(
    'compiled', 1e9, 2e9, 3e6, 1e12, 1e10, 1e8, 1e9, 60.0, True
  )
  monkeypatch.setattr(plan, 'has_compiler', lambda: True)
  monkeypatch.setattr(plan, 'measure', lambda *_: compiled)
  set_flags(script, abstract=False)
  assert not any(plan.BYTES in line for line in printed('v5e:2x2'))
  lines = printed('v5e:2x2', batch_size=16, micro_batches=2)
  assert any(plan.BYTES in line for line in lines)


def test_a_compiled_program_says_where_its_bytes_go(
  monkeypatch, set_flags, printed
):
  compiled = plan.Program(
    'compiled', 1e9, 20e9, 3e6, 1e12, 1e10, 1e8, 1e9, 60.0, True, 9e9, 4e9
  )
  monkeypatch.setattr(plan, 'has_compiler', lambda: True)
  monkeypatch.setattr(plan, 'measure', lambda *_: compiled)
  set_flags(script, abstract=False)
  text = '\n'.join(printed('v5e:2x2'))
  assert '9e+09 by operations' in text and 'included, 4e+09' in text
  excess = 'more than there is, and yet the compiler took the program'
  assert excess in text
  fitting = compiled._replace(temporaries=1e9, hbm_bytes=None)
  monkeypatch.setattr(plan, 'measure', lambda *_: fitting)
  text = '\n'.join(printed('v5e:2x2'))
  assert excess not in text and 'by operations' not in text


def test_what_does_not_fit_ends_with_what_makes_it_fit(monkeypatch, printed):
  config = tiny.config(batch_size=512, eval_batch_size=16)
  whole = plan.measure(config, pods.find('v5e:2x2'), compiled=False)
  tight = pods.find('v5e:2x2')
  room = whole.arguments + 0.6 * whole.temporaries
  tight = tight._replace(chip=tight.chip._replace(memory=room))
  monkeypatch.setattr(pods, 'find', lambda name: tight)
  lines = printed('v5e:2x2', batch_size=512)
  assert 'it does not fit; what was tried' in lines
  assert lines[-1].startswith('fits with ')
  assert '--config.batch_size=256' in lines[-1]
