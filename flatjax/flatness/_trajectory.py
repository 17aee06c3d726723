r"""The path of training, in the plane in which it moves most.

For checkpoints :math:`w_1, \ldots, w_T`, let :math:`d_t = w_t - w_T`. The Gram matrix
:math:`G_{st} = d_s \cdot d_t` has eigenvalues :math:`\lambda_k` and eigenvectors :math:`u_k`, and

.. math::
  e_k = \lambda_k^{-1/2} \sum_t u_{tk} \, d_t, \qquad d_t \cdot e_k = \lambda_k^{1/2} u_{tk} \tag{1}

are the principal directions of the path and its coordinates along them [Li et al., 2018]. The sums
are in double precision: in single precision, rounding errors of G have a share of about 1e-6, and a
second direction with a smaller share would be wrong.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _masks
from flatjax.flatness import _inputs, _optional, _tables
from flatjax.flatness._directions import check_same_shapes


@_tables.printed
class Trajectory(NamedTuple):
    """A path of training in the plane of its two leading directions.

    Attributes:
      origin: the last checkpoint.
      directions: two orthogonal vectors of norm 1: a plane for `flatjax.flatness.slice_2d`.
      coordinates: coordinates of the checkpoints, shape (T, 2), as distances between weights; the
        last is (0, 0).
      explained: share of the sum of squared distances to the last checkpoint that lies along each
        direction, shape (2,).
    """

    origin: chex.ArrayTree
    directions: tuple[chex.ArrayTree, chex.ArrayTree]
    coordinates: np.ndarray
    explained: np.ndarray

    def table(self) -> _tables.Table:
        """Tabulates the coordinates of the checkpoints; printing shows it."""
        shares = ", ".join(f"{100 * share:.0f} %" for share in self.explained)
        title = [f"Path of training; shares along the two directions: {shares}"]
        steps = [str(t) for t in range(len(self.coordinates))]
        x, y = self.coordinates.T
        columns = {"x": [*map(_tables.number, x)], "y": [*map(_tables.number, y)]}
        return _tables.of_quantities(title, "checkpoint", steps, columns)

    def plot(self, ax: Any = None, **style: Any) -> Any:
        """Draws the path, also on a slice of its plane if you give the slice's axes.

        Args:
          ax: matplotlib axes, for example from `plot_slice`; the axes of a new figure by default.
          **style: style of the line, for matplotlib; `label` names the path.

        Returns:
          The axes.

        Raises:
          ImportError: matplotlib is not installed.
        """
        ax = _optional.new_axes("Trajectory.plot", ax)
        style = {"color": "#D55E00", "marker": "o", "markersize": 3, "label": "path"} | style
        ax.plot(*self.coordinates.T, **style)
        ax.plot(0, 0, "*", color="black", markersize=11, label="end", zorder=4)
        first, second = (f"{100 * share:.0f} % of the path" for share in self.explained)
        ax.set(xlabel=f"x, distance along e₁ ({first})", ylabel=f"y, along e₂ ({second})")
        ax.legend(loc="best")
        return ax


def trajectory(checkpoints: Sequence[chex.ArrayTree]) -> Trajectory:
    """Finds the plane in which a path of training moves most, and the path in it.

    Slice the loss on this plane with `flatjax.flatness.slice_2d` and draw it with `plot_slice`.
    Then draw the path over it with the result's `plot(ax)`.

    Cost: no evaluation; T^2 inner products on the host, and T copies of the weights in memory.

    Args:
      checkpoints: parameters, from the first to the last, T of them.

    Returns:
      A `Trajectory`.

    Raises:
      ValueError: there are fewer than three checkpoints, they differ in shape, one is not finite,
        or all are on one line.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax.flatness import trajectory
      >>> path = [jnp.array(w) for w in ([3.0, 0.0, 5.0], [1.0, 1.0, 5.0], [0.0, 0.0, 5.0])]
      >>> found = trajectory(path)
      >>> (x, y), (first, second) = found.coordinates[0], found.directions
      >>> bool(jnp.allclose(path[-1] + x * first + y * second, path[0], atol=1e-5))
      True
      >>> round(float(found.explained.sum()), 3)
      1.0

    See Also:
      `plane` (two directions of your own), `slice_2d` (the loss on the plane).
    """
    points = list(checkpoints)
    if len(points) < 3:
        raise ValueError(f"checkpoints must be three at least, got {len(points)}.")
    for point in points:
        check_same_shapes(points[-1], point)
    weights = [_inputs.weights(_inputs.measured(p, None, "checkpoints"), None) for p in points]
    for index, point in enumerate(weights):
        if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(point)):
            raise ValueError(f"checkpoints must be finite, got NaN or infinity in number {index}.")
    leaves = zip(*map(jax.tree.leaves, weights), strict=True)
    gram = sum(steps @ steps.T for steps in map(_steps, leaves))
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[:-3:-1], vectors[:, :-3:-1]
    if not values[1] > 1e-10 * max(values[0], 1e-30):
        raise ValueError("checkpoints must not lie on one line, in which case there is no plane.")

    def direction(k):
        combine = lambda *leaves: jnp.asarray(
            (vectors[:, k] / np.sqrt(values[k]) @ _steps(leaves)).reshape(leaves[0].shape),
            leaves[0].dtype,
        )
        return _masks.merge(jax.tree.map(combine, *weights), _inputs.zeros_like(points[-1]))

    return Trajectory(
        origin=points[-1],
        directions=(direction(0), direction(1)),
        coordinates=np.sqrt(values) * vectors,  # eq. (1)
        explained=values / np.trace(gram),
    )


def _steps(leaves: Sequence[jax.Array]) -> np.ndarray:
    """Returns d of eq. (1) for one leaf of the T checkpoints, (T, size), in float64."""
    stack = np.stack([np.asarray(leaf, np.float64).ravel() for leaf in leaves])
    return stack - stack[-1]
