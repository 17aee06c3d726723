"""Local energy: how much the training error rises when the weights are perturbed at random."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flatjax import _checks
from flatjax.coupling import Mask, map_masked
from flatjax.evaluation import EvalFn

NOISES = ("multiplicative", "additive")


class LocalEnergy(NamedTuple):
    """Rise of the evaluated quantities under noise, on a grid of strengths.

    Attributes:
      sigma: the strengths of the noise, shape (G,).
      mean: {name: mean rise over draws, shape (G,)}, in the units of `eval_fn`.
      sem: {name: standard error of that mean over draws, shape (G,)}.
      reference: {name: value without noise, scalar}.
    """

    sigma: np.ndarray
    mean: dict[str, np.ndarray]
    sem: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]


def local_energy(
    eval_fn: EvalFn,
    *,
    sigmas: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    num_samples: int = 100,
    noise: str = "multiplicative",
    mask: Mask = None,
) -> Callable[..., LocalEnergy]:
    r"""The local energy of a minimum, as a function of (params, batches, key).

    .. math::
      \delta E(\sigma) = \mathbb{E}_z \, E\big(w + \sigma z \odot w\big) - E(w),
      \qquad z \sim \mathcal{N}(0, I)

    [Pittorino et al., 2021, eq. 8], E being each quantity that `eval_fn` sums: training error and
    loss, usually. Multiplicative noise makes it insensitive to the rescalings that leave a ReLU
    network unchanged; additive noise :math:`w + \sigma z` is an option.

    The same draws z serve every sigma, and every solution measured with the same key: differences
    between solutions are less noisy than each of them. Networks with batch norm are evaluated with
    their running statistics fixed, which are passed as `state`.

    Cost: `num_samples * len(sigmas) + 1` evaluations of the batches; nothing is recompiled between
    sigmas, draws, or solutions of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluation`.
      sigmas: strengths of the noise.
      num_samples: S, draws of the noise for each sigma.
      noise: `"multiplicative"` (default) or `"additive"`.
      mask: pytree of bools (or a function of params returning one); leaves marked False (biases,
        scales of norms) are not perturbed. All are, by default.

    Returns:
      `fn(params, batches, key, *state) -> LocalEnergy`. It loops over batches in Python around
      jitted steps, and is not to be jitted itself.

    Raises:
      ValueError: sigmas that are empty or not positive and finite, num_samples < 2, or an unknown
        kind of noise.

    Examples:
      A parabola, whose rise is known, :math:`\sigma^2 \lVert w \rVert^2`:

      >>> import jax, jax.numpy as jnp, flatjax.flatness
      >>> def eval_fn(params, batch):
      ...     return {"loss": len(batch) * jnp.sum(params**2), "count": len(batch)}
      >>> measure = flatjax.flatness.local_energy(eval_fn, sigmas=[0.1], num_samples=2000)
      >>> found = measure(jnp.array([3.0, 4.0]), [jnp.ones(1)], jax.random.key(0))
      >>> bool(abs(found.mean["loss"][0] - 0.25) < 3 * found.sem["loss"][0])
      True
    """
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {NOISES}, got {noise!r}.")
    sigmas = np.atleast_1d(np.asarray(sigmas, dtype=float))
    if sigmas.ndim != 1 or not sigmas.size or not (np.isfinite(sigmas) & (sigmas > 0)).all():
        raise ValueError(f"sigmas must be a list of positive finite numbers, got {sigmas}.")
    _checks.check_count("num_samples", num_samples, minimum=2)

    @jax.jit
    def draw(params, key, sigma):
        keys = optax.tree.split_key_like(key, params)

        def perturb(w, key):
            z = jax.random.normal(key, w.shape)
            return (w + sigma * z * (w if noise == "multiplicative" else 1)).astype(w.dtype)

        return map_masked(perturb, mask, params, params, keys)

    @jax.jit
    def accumulate(totals, params, batch, *state):
        return jax.tree.map(jnp.add, totals, eval_fn(params, batch, *state))

    def sum_over(zeros, params, batches, state):
        """Sums over the data set, one dispatch a batch, not waited for."""
        totals = zeros
        for batch in batches:
            totals = accumulate(totals, params, batch, *state)
        return totals

    def measure(
        params: chex.ArrayTree, batches: Sequence[Any], key: chex.PRNGKey, *state: Any
    ) -> LocalEnergy:
        if not len(batches):
            raise ValueError("batches must hold at least one batch, got none.")
        keys = [jax.random.fold_in(key, s) for s in range(num_samples)]
        zeros = optax.tree.zeros_like(jax.eval_shape(eval_fn, params, batches[0], *state))
        reference = _means(sum_over(zeros, params, batches, state))
        draws = [
            sum_over(zeros, draw(params, k, sigma), batches, state)
            for sigma in sigmas
            for k in keys
        ]
        values = _means({name: np.stack([np.asarray(t[name]) for t in draws]) for name in draws[0]})
        rises = {
            name: value.reshape(len(sigmas), num_samples) - reference[name]
            for name, value in values.items()
        }
        return LocalEnergy(
            sigma=sigmas,
            mean={name: rise.mean(axis=1) for name, rise in rises.items()},
            sem={
                name: rise.std(axis=1, ddof=1) / np.sqrt(num_samples)
                for name, rise in rises.items()
            },
            reference=reference,
        )

    return measure


def _means(sums):
    count = np.asarray(sums["count"], dtype=float)
    return {name: np.asarray(s, dtype=float) / count for name, s in sums.items() if name != "count"}
