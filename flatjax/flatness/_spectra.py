"""Results of measures of the curvature: eigenvalues, trace, spectral density."""

from typing import Any, NamedTuple

import chex
import numpy as np

from flatjax.flatness import _plots, _tables


@_tables.printed
class Eigenvalues(NamedTuple):
    """Extreme eigenvalues, the most extreme first.

    Attributes:
      values: shape (num,).
      residuals: norms of A v - value v, shape (num,): an eigenvalue of A is at most that far away.
      vectors: eigenvectors of norm 1, stacked on the first axis of a pytree like the parameters
        (zero where masked). Each is a direction for `flatjax.flatness.slice_1d`.
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: chex.ArrayTree

    def table(self) -> _tables.Table:
        """Tabulates the eigenvalues and their residuals; printing shows it."""
        found = {
            "eigenvalue": [*map(_tables.number, self.values)],
            "residual": [*map(_tables.number, self.residuals)],
        }
        order = [str(k + 1) for k in range(len(self.values))]
        return _tables.of_quantities(["Extreme eigenvalues"], "number", order, found)


@_tables.printed
class Trace(NamedTuple):
    """An estimate of a trace.

    Attributes:
      mean: mean over random vectors, an unbiased estimate.
      sem: standard error of the mean.
      draws: the estimate of each random vector, shape (S,).
    """

    mean: np.ndarray
    sem: np.ndarray
    draws: np.ndarray

    def table(self) -> _tables.Table:
        """Tabulates the trace and its standard error; printing shows it."""
        title = [f"Trace, ± standard error over {len(self.draws)} random vectors"]
        found = [_tables.with_error(self.mean, self.sem)]
        return _tables.of_quantities(title, "", ["trace"], {"value": found})


@_tables.printed
class SpectralDensity(NamedTuple):
    """The distribution of the eigenvalues; its integral is 1.

    Attributes:
      nodes: Ritz values of each random vector, ascending, shape (S, m).
      weights: weights of the nodes, each row of sum 1, shape (S, m). The mean of a function f over
        the spectrum is estimated by the mean over rows of sum(weights * f(nodes)).
      grid: eigenvalues at which the smoothed density is given, shape (X,).
      density: nodes smoothed by a Gaussian, mean over random vectors, shape (X,).
      sem: standard error of the density over random vectors, shape (X,).
      width: standard deviation of the Gaussian.
      dimension: n, the number of eigenvalues; `density * dimension` counts eigenvalues.
    """

    nodes: np.ndarray
    weights: np.ndarray
    grid: np.ndarray
    density: np.ndarray
    sem: np.ndarray
    width: float
    dimension: int

    def table(self) -> _tables.Table:
        """Tabulates the range of the eigenvalues and their moments; printing shows it."""
        num = len(self.nodes)
        below = (self.weights * (self.nodes < -self.width)).sum(axis=1)
        error = lambda x: _tables.with_error(x.mean(), x.std(ddof=1) / np.sqrt(num))
        lines = [
            ["smallest, largest node", f"{self.nodes.min():.4g}, {self.nodes.max():.4g}"],
            ["mean eigenvalue", error((self.weights * self.nodes).sum(axis=1))],
            [f"share below {-self.width:.3g}", error(below)],
            ["eigenvalues in all", f"{self.dimension:,}"],
        ]
        title = [f"Spectral density, ± standard error over {num} random vectors", ""]
        return _tables.Table(title, ["", "value"], lines)

    def plot(self, ax: Any = None, **style: Any) -> Any:
        """Draws the smoothed density on a logarithmic axis.

        Args:
          ax: matplotlib axes; the axes of a new figure by default.
          **style: style of the curves, for matplotlib; `label` names them.

        Returns:
          The axes.

        Raises:
          ImportError: matplotlib is not installed.
        """
        return _plots.plot_spectral_density(self, ax, style)
