r"""Kendall's tau of all pairs of variables, partial tau, and their bootstrap.

With the signs :math:`s^u_{ij} = \mathrm{sign}(u_i - u_j)` of a variable u and weights
:math:`p_{ij}` of the pairs, the matrix of taus is

.. math::
  T_{uv} = \frac{\sum_{i<j} p_{ij} s^u_{ij} s^v_{ij}}
    {\sqrt{\sum_{i<j} p_{ij} |s^u_{ij}| \sum_{i<j} p_{ij} |s^v_{ij}|}} \tag{1}

that is tau-b. The partial tau of u and v given a set C of others is, with the inverse M of the
block of T on u, v and C [Kendall, 1942, for one other],

.. math:: \tau_{uv \mid C} = - \frac{M_{uv}}{\sqrt{M_{uu} M_{vv}}} \tag{2}
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike


class Tau(NamedTuple):
    """One coefficient.

    Attributes:
      value: the coefficient; NaN if it is not defined.
      interval: 95% bootstrap interval over configurations, (low, high).
      sem: standard deviation of the bootstrap.
      is_clear: whether the value exceeds z standard errors, with z corrected for all planned cells.
    """

    value: float
    interval: tuple[float, float]
    sem: float
    is_clear: bool


# Kind of coefficient -> predictor -> outcome -> its value and error.
Taus = dict[str, dict[str, dict[str, Tau]]]


def rank(
    predictors: Mapping[str, ArrayLike],
    outcomes: Mapping[str, ArrayLike],
    *,
    configurations: Sequence[Any],
    algorithms: Sequence[Any],
    controls: Sequence[str],
    planned: int,
    num_bootstrap: int = 2000,
    seed: int = 0,
) -> Taus:
    """Ranks solutions by each predictor and outcome.

    Args:
      predictors: name -> values of n solutions; a NaN ties with every value.
      outcomes: name -> values, in the same way.
      configurations: configuration of each solution; the bootstrap draws configurations.
      algorithms: algorithm of each solution.
      controls: names of predictors that the partial coefficients are given.
      planned: number of cells for which "clear" is corrected.
      num_bootstrap: number of bootstrap samples.
      seed: seed of the bootstrap.

    Returns:
      "all": over all pairs; "within": over pairs of the same algorithm; "partial": over all pairs,
      given the controls; "partial within": within algorithms, given the controls.
    """
    names = [*predictors, *outcomes]
    columns = [np.asarray(values, float) for values in (*predictors.values(), *outcomes.values())]
    upper = np.triu_indices(len(columns[0]), 1)
    signs = np.stack([_signs(values)[upper] for values in columns])
    same = np.equal.outer(np.asarray(algorithms, object), np.asarray(algorithms, object))[upper]
    codes = np.unique(np.asarray([str(one) for one in configurations]), return_inverse=True)[1]
    positions = {name: index for index, name in enumerate(names)}
    ask = {
        (predictor, outcome): (
            positions[predictor],
            positions[outcome],
            [positions[name] for name in controls if name != predictor],
        )
        for predictor in predictors
        for outcome in outcomes
    }

    def coefficients(counts):
        """Returns {kind: array of all cells} for a number of copies of each solution."""
        pairs = (counts[:, None] * counts)[upper]
        found = {}
        for kind, own in (("", pairs), (" within", pairs * same)):
            matrix = tau_matrix(signs, own)
            found[kind or "all"] = [matrix[u, v] for u, v, _ in ask.values()]
            found[f"partial{kind}"] = [partial_tau(matrix, *cell) for cell in ask.values()]
        return {kind.strip(): np.array(values) for kind, values in found.items()}

    rng = np.random.default_rng(seed)
    number = codes.max() + 1
    draws = rng.multinomial(number, np.full(number, 1 / number), size=num_bootstrap)
    values = coefficients(np.ones(len(codes)))
    samples = [coefficients(draw[codes].astype(float)) for draw in draws]
    limit = scipy.stats.norm.ppf(1 - 0.05 / planned / 2)
    found: Taus = {}
    for kind, own in values.items():
        spread = np.array([sample[kind] for sample in samples])
        for (predictor, outcome), value, column in zip(ask, own, spread.T, strict=True):
            row = found.setdefault(kind, {}).setdefault(predictor, {})
            row[outcome] = _with_error(float(value), column, limit)
    return found


def tau_matrix(signs: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Computes eq. (1) from signs (V, P) and weights of the pairs (P,)."""
    totals = (signs * pairs) @ signs.T
    size = np.sqrt(np.diag(totals))
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals / np.outer(size, size)


def partial_tau(matrix: np.ndarray, u: int, v: int, given: Sequence[int]) -> float:
    """Computes eq. (2); NaN if the block has no inverse."""
    own = [u, v, *given]
    block = matrix[np.ix_(own, own)]
    if not np.isfinite(block).all() or np.linalg.cond(block) > 1e10:
        return float("nan")
    inverse = np.linalg.inv(block)
    return float(-inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1]))


def _signs(values):
    return np.subtract(values[:, None] > values, values[:, None] < values, dtype=float)


def _with_error(value, samples, limit) -> Tau:
    samples = samples[np.isfinite(samples)]
    if not len(samples) or not np.isfinite(value):
        return Tau(value, (float("nan"), float("nan")), float("nan"), False)
    low, high = np.percentile(samples, [2.5, 97.5])
    sem = float(samples.std())
    return Tau(value, (float(low), float(high)), sem, bool(abs(value) > limit * sem))
