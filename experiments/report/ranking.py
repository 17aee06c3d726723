r"""Kendall's tau of all pairs of variables, partial tau, and their bootstrap.

With the signs :math:`s^u_{ij} = \mathrm{sign}(u_i - u_j)` of a variable u and weights
:math:`p_{ij}` of the pairs, the matrix of taus is

.. math::
  T_{uv} = \frac{\sum_{i<j} p_{ij} s^u_{ij} s^v_{ij}}
    {\sqrt{\sum_{i<j} p_{ij} |s^u_{ij}| \sum_{i<j} p_{ij} |s^v_{ij}|}} \tag{1}

that is tau-b. It is the correlation of the signs. The partial tau of u and v, given a set C of
others and one more variable z, follows from those given C [Kendall, 1942, for one z],

.. math::
  \tau_{uv \mid C z} = \frac{\tau_{uv \mid C} - \tau_{uz \mid C} \tau_{vz \mid C}}
    {\sqrt{(1 - \tau_{uz \mid C}^2) (1 - \tau_{vz \mid C}^2)}}, \qquad \tau_{uv} = T_{uv} \tag{2}
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

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

    def shown(self, error: Literal["", "interval", "sem"] = "") -> str:
        """Formats the value with a star if it is clear; empty if it is not defined.

        Examples:
          >>> tau = Tau(0.512, (0.3, 0.7), 0.1, True)
          >>> tau.shown(), tau.shown("interval"), tau.shown("sem")
          ('+0.51*', '+0.51* [+0.30, +0.70]', '+0.51* ± 0.10')
        """
        if not np.isfinite(self.value):
            return ""
        low, high = self.interval
        errors = {"": "", "interval": f" [{low:+.2f}, {high:+.2f}]", "sem": f" ± {self.sem:.2f}"}
        return f"{self.value:+.2f}{'*' if self.is_clear else ''}{errors[error]}"


# Kind of coefficient -> predictor -> outcome -> its value and error.
Taus = dict[str, dict[str, dict[str, Tau]]]


def rank(
    predictors: Mapping[str, ArrayLike],
    outcomes: Mapping[str, ArrayLike],
    *,
    configurations: Sequence[Any],
    within: Sequence[Any],
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
      within: group of each solution, for example its algorithm.
      controls: names of predictors that the partial coefficients are given.
      planned: number of cells for which "clear" is corrected.
      num_bootstrap: number of bootstrap samples.
      seed: seed of the bootstrap.

    Returns:
      "all": over all pairs; "within": over pairs of the same group; "partial": over all pairs,
      given the controls; "partial within": within groups, given the controls.
    """
    names = [*predictors, *outcomes]
    columns = [np.asarray(values, float) for values in (*predictors.values(), *outcomes.values())]
    upper = np.triu_indices(len(columns[0]), 1)
    signs = np.stack([_signs(values)[upper] for values in columns])
    copies = _bootstrap(configurations, num_bootstrap, seed)
    is_same = _codes(within)[upper[0]] == _codes(within)[upper[1]]
    every, alike = (
        np.stack([tau_matrix(signs, own[upper[0]] * own[upper[1]] * among) for own in copies])
        for among in (1.0, is_same)
    )
    limit = scipy.stats.norm.ppf(1 - 0.05 / planned / 2)
    position = {name: index for index, name in enumerate(names)}

    def coefficients(matrices, given):
        return {
            predictor: {
                outcome: _with_error(
                    partial_tau(
                        matrices,
                        position[predictor],
                        position[outcome],
                        [position[name] for name in given if name != predictor],
                    ),
                    limit,
                )
                for outcome in outcomes
            }
            for predictor in predictors
        }

    return {
        "all": coefficients(every, ()),
        "within": coefficients(alike, ()),
        "partial": coefficients(every, controls),
        "partial within": coefficients(alike, controls),
    }


def _bootstrap(configurations, number, seed):
    """Counts copies of each solution: 1 each, then in B samples, (B + 1, n)."""
    codes = _codes(configurations)
    size = codes.max() + 1
    draws = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=number)
    return np.concatenate([np.ones((1, len(codes))), draws[:, codes]])


def _codes(labels):
    return np.unique([str(label) for label in labels], return_inverse=True)[1]


def tau_matrix(signs: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Computes eq. (1) from signs (V, P) and weights of the pairs (P,)."""
    totals = (signs * pairs) @ signs.T
    size = np.sqrt(np.diag(totals))
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals / np.outer(size, size)


def partial_tau(matrices: np.ndarray, u: int, v: int, given: Sequence[int]) -> np.ndarray:
    """Computes eq. (2) for matrices (..., V, V); NaN where it is not defined."""
    if not given:
        return matrices[..., u, v]
    *others, z = given
    uv, uz, vz = (partial_tau(matrices, *two, others) for two in ((u, v), (u, z), (v, z)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (uv - uz * vz) / np.sqrt((1 - uz**2) * (1 - vz**2))


def _signs(values):
    return np.subtract(values[:, None] > values, values[:, None] < values, dtype=float)


def _with_error(values, limit) -> Tau:
    """Makes a coefficient from its value, the first one, and bootstrap samples."""
    value, samples = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not len(samples) or not np.isfinite(value):
        return Tau(value, (float("nan"), float("nan")), float("nan"), False)
    low, high = np.percentile(samples, [2.5, 97.5])
    sem = float(samples.std())
    return Tau(value, (float(low), float(high)), sem, bool(abs(value) > limit * sem))
