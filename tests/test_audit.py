"""The table of who is treated how."""

import jax
import numpy as np
import tiny

from nfnets import factory
from nfnets.optim import audit, groups


def rows_of(**settings):
  _, _, state = tiny.network_and_state(tiny.config())
  return state.params, audit.rows(
    state.params,
    learning_rate=0.1,
    weight_decay=1e-4,
    clipping=0.01,
    **settings,
  )


def test_the_frozen_are_a_group_of_their_own_that_nothing_touches():
  params, rows = rows_of(frozen=('stem', 'stage_1'))
  (frozen,) = [row for row in rows if row['label'] == 'frozen']
  assert frozen['learning_rate'] == frozen['weight_decay'] == 0.0
  assert frozen['clipping'] is None and frozen['clip'] == 'none'
  chosen = groups.select(params, ('stem', 'stage_1'))
  assert frozen['tensors'] == sum(jax.tree.leaves(chosen))
  paths = [path for row in rows for path in row['paths']]
  assert len(paths) == len(set(paths)) == len(jax.tree.leaves(params))


def test_each_learning_rate_is_a_row():
  _, rows = rows_of(learning_rate_scales=(('stage_2', 0.5), ('head', 10.0)))
  rates = {(row['label'], row['learning_rate']) for row in rows}
  assert rates == {
    ('weight', 0.1),
    ('weight', 0.05),
    ('gain_or_bias', 0.1),
    ('gain_or_bias', 0.05),
    ('head', 1.0),
  }


def test_the_table_of_a_recipe_shows_what_is_frozen_and_scaled():
  config = tiny.config(
    optimizer__frozen=('stem',),
    optimizer__learning_rate_scales=(('head', 10.0),),
  )
  _, _, state = tiny.network_and_state(config)
  head, frozen, *_, last = factory.audit_of(config, state.params).splitlines()
  assert head.split()[0] == 'group'
  cells = frozen.split()
  assert cells[0] == 'frozen' and cells[4] == 'none' and cells[6] == '0'
  total = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(state.params))
  assert f'{total:,}' in last
