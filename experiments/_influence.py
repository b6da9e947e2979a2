"""What batch size and lambda, by their logarithms, have to do with accuracy."""

from collections.abc import Mapping

import numpy as np

from experiments import _compare, _study

Points = Mapping[tuple[int, float], _study.Row]


def of(points: Points) -> tuple[tuple[float, float], ...]:
  """(Correlation, random forest importance) of batch size and of lambda."""
  from sklearn.ensemble import RandomForestRegressor

  inputs = np.log2(list(points))
  worth = np.array([row.worth for row in points.values()])
  forest = RandomForestRegressor(100, random_state=0).fit(inputs, worth)
  centered = inputs - inputs.mean(0), worth - worth.mean()
  sizes = np.linalg.norm(centered[0], axis=0) * np.linalg.norm(centered[1])
  correlations = centered[1] @ centered[0] / np.maximum(sizes, 1e-9)
  return tuple(
    (float(correlation), float(importance))
    for correlation, importance in zip(
      correlations, forest.feature_importances_
    )
  )


def partial_correlations(points: Points) -> tuple[float, float]:
  """Those of batch size and of lambda, each with the other one removed."""
  sizes, lambdas = np.log2(list(points)).T.tolist()
  worth = [row.worth for row in points.values()]
  return (
    _compare.partial_correlation(sizes, worth, lambdas),
    _compare.partial_correlation(lambdas, worth, sizes),
  )
