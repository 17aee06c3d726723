r"""Local entropy by sampling: the share of surroundings that solves the task."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from flatjax import _checks
from flatjax._evaluation import EvalFn
from flatjax._masks import Mask
from flatjax._sampling import diagnostics, free_energy
from flatjax.flatness import _plots, _tables, _tempering
from flatjax.flatness._inputs import Batches, check_grid, random_key
from flatjax.flatness._surroundings import Landscape
from flatjax.flatness.priors import Prior


@_tables.printed
class LocalEntropy(NamedTuple):
    r"""Local entropy at D distances and K inverse temperatures, the first one 0.

    Standard errors are computed between chains, with C - 1 degrees of freedom. With 8 chains, 95%
    intervals are 2.4 standard errors to each side. They are too small if `converged` is False.

    Attributes:
      distance: the distances, (D,).
      beta: inverse temperatures (K,), per unit of the total energy E; beta[0] = 0.
      log_volume: F(beta), (D, K), in nats, of all weights together; 0 without data; nan if the
        energies at neighbouring betas do not overlap.
      log_volume_sem: standard error of log_volume.
      integrated: the same quantity by thermodynamic integration of the same samples. The spacing of
        the betas makes it inexact: if it differs, the betas are too far apart.
      integrated_sem: standard error of integrated.
      mean_energy: the mean of E at each beta, (D, K): F' = -E.
      log_fraction: the logarithm of the prior's mass where E <= threshold, (D,); None without a
        threshold, -inf if no sample is there.
      log_fraction_sem: standard error of log_fraction; nan if that is -inf.
      share_below: share of samples with E <= threshold at the largest beta, (D,), or None.
      num_weights: number of weights that move: `log_volume / num_weights` is per weight.
      reference: E at the solution itself.
      acceptance: rate at which steps were accepted, (D, K).
      exchange: rate at which neighbouring betas exchanged configurations, (D, K - 1).
      step_size: s of the steps, (D, K).
      ess: effective number of independent samples of E, all chains together, (D, K).
      r_hat: agreement between chains, (D, K); 1 is good.
      converged: whether r_hat <= 1.05 and ess >= 100 at each beta > 0, exchange >= 0.05 and, with
        a threshold, share_below >= 0.01; (D,).
      num_evaluations: number of times that a network was evaluated on the data.
    """

    distance: np.ndarray
    beta: np.ndarray
    log_volume: np.ndarray
    log_volume_sem: np.ndarray
    integrated: np.ndarray
    integrated_sem: np.ndarray
    mean_energy: np.ndarray
    log_fraction: np.ndarray | None
    log_fraction_sem: np.ndarray | None
    share_below: np.ndarray | None
    num_weights: int
    reference: float
    acceptance: np.ndarray
    exchange: np.ndarray
    step_size: np.ndarray
    ess: np.ndarray
    r_hat: np.ndarray
    converged: np.ndarray
    num_evaluations: int

    def table(self) -> _tables.Table:
        """Tabulates log-volumes at the largest beta; printing shows it."""
        found = {
            "log-volume F": [
                *map(_tables.with_error, self.log_volume[:, -1], self.log_volume_sem[:, -1])
            ],
            "F per weight": [*map(_tables.number, self.log_volume[:, -1] / self.num_weights)],
        }
        if self.log_fraction is not None and self.log_fraction_sem is not None:
            fractions = map(_tables.with_error, self.log_fraction, self.log_fraction_sem)
            found["log fraction"] = [*fractions]
        found["converged"] = ["yes" if each else "no" for each in np.atleast_1d(self.converged)]
        title = [
            f"Local entropy at β = {self.beta[-1]:g}, in nats, ± standard error between chains",
            f"Total energy at the solution {self.reference:.4g}, {self.num_weights:,} weights",
        ]
        return _tables.of_quantities(title, "distance", _tables.labels(self.distance), found)

    def plot(self, ax: Any = None, **style: Any) -> Any:
        """Draws the log-volume per weight against the distance, for each beta above 0.

        Args:
          ax: matplotlib axes; the axes of a new figure by default.
          **style: style of the curves, for matplotlib; `label` names them.

        Returns:
          The axes.

        Raises:
          ImportError: matplotlib is not installed.
        """
        return _plots.plot_local_entropy(self, ax, style)


def local_entropy(
    eval_fn: EvalFn,
    *,
    distances: Sequence[float],
    betas: Sequence[float],
    quantity: str = "error",
    threshold: float | None = None,
    prior: str | Prior = "additive",
    mask: Mask = None,
    num_chains: int = 8,
    num_steps: int = 1000,
    num_warmup: int = 500,
) -> Callable[..., LocalEntropy]:
    r"""Makes a function that estimates local entropy at given distances.

    .. math::
      F_d(\beta) = \log \big\langle e^{-\beta E(w')} \big\rangle_{w' \sim P_d}, \qquad
      E = \text{sum over the data of error or loss} \tag{1}

    Configurations w' are drawn from the surroundings :math:`P_d` of w at a distance d, and are
    weighted by their energy E. F is the logarithm of the share that remains. It is 0 at
    :math:`\beta = 0`. For :math:`\beta \to \infty` it is the logarithm of the share of
    configurations that classify all data correctly. `log_fraction` estimates this limit at finite
    :math:`\beta`, for configurations with at most `threshold` errors.

    The surroundings :math:`P_d` are a prior: see `flatjax.flatness.priors`. With `"additive"`,
    normal noise of standard deviation d, F gives the local entropy that Entropy-SGD descends, with
    :math:`d^2 = 1 / (\beta \gamma)` and L = E:

    .. math::
      -\frac{1}{\beta} \log \int dw' \,
      e^{-\beta L(w') - \frac{\beta\gamma}{2} \lVert w' - w \rVert^2}
      = -\frac{1}{\beta} \Big( F_d(\beta) + \frac{n}{2} \log 2 \pi d^2 \Big) . \tag{2}

    *Sampling.* Configurations are functions of normal noise z. Each beta has its own configuration
    and proposes :math:`z' = \sqrt{1 - s^2} z + s \xi` with new noise :math:`\xi`. The proposal is
    accepted with probability :math:`\min(1, e^{-\beta (E' - E)})`. This is the preconditioned
    Crank-Nicolson step [Cotter et al., 2013], which leaves the prior unchanged for any number of
    weights. At :math:`\beta = 0` (s = 1) samples are independent. The warm-up tunes s for an
    acceptance of 0.25. After every step neighbouring betas exchange configurations with probability
    :math:`\min(1, e^{\Delta\beta \Delta E})` (replica exchange), alternately the even and the odd
    pairs. Several such ladders, the chains, start from independent draws of the prior.

    *Estimate.* F is computed from the samples of all betas by reweighting (MBAR [Shirts and
    Chodera, 2008]), and for comparison by thermodynamic integration, :math:`F = -\int_0^\beta
    \langle E \rangle_b \, db`. Standard errors come from the jackknife over chains. They cannot
    include regions that no chain has found: check `converged`, and repeat with twice the steps.

    *Cost.* D C K (num_warmup + num_steps) + 1 evaluations of the data, for D distances, C chains
    and K betas (including 0). Memory holds C K configurations and as many proposals. They are
    evaluated in one vmapped call, or one by one if the network has convolutions and runs on CPU.

    *Choice of betas.* At the largest beta the wanted configurations should be common
    (`share_below`). Choose the others between 0 and the largest, roughly geometrically, and so
    close that `exchange` stays above about 0.2.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      distances: D distances, in the unit of the prior.
      betas: inverse temperatures, per unit of E; 0 is added if missing.
      quantity: name of the quantity that E sums, as `eval_fn` returns it.
      threshold: largest E (a total, for example 0 errors) of the counted configurations.
      prior: name or function, see `flatjax.flatness.priors`.
      mask: pytree of bools (or a function of params returning one); leaves marked False do not
        move. By default all move.
      num_chains: C, the number of independent ladders.
      num_steps: number of steps of each ladder; all are recorded.
      num_warmup: number of steps before them, which are discarded.

    Returns:
      `fn(params, batches, key, *state) -> LocalEntropy`. Do not jit it. `batches`: a sequence, or a
      function that returns an iterable.

    Raises:
      ValueError: distances or betas that are not positive, finite (and increasing); an unknown
        prior; fewer than 2 chains, 10 steps or 1 warm-up step. When called: no batches, batches
        that can be iterated only once, an unknown quantity, or no weights that move.

    Examples:
      A parabola, for which :math:`F = -\frac{n}{2} \log(1 + \beta d^2)`:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness._local_entropy import local_entropy
      >>> def eval_fn(params, batch):
      ...     return {"loss": 0.5 * jnp.sum(params**2), "count": jnp.array(1)}
      >>> measure = local_entropy(
      ...     eval_fn, distances=[1.0], betas=[0.3, 1.0], quantity="loss", num_steps=300
      ... )
      >>> found = measure(jnp.zeros(4), [0], jax.random.key(0))
      >>> error = found.log_volume[0] + 2 * jnp.log(1 + jnp.array([0, 0.3, 1.0]))
      >>> bool(jnp.all(jnp.abs(error) <= 4 * found.log_volume_sem[0]))
      True

    See Also:
      `priors.sphere` (weights at a distance), `log_fraction_direct` (counts in place of chains),
      `learning_coefficient` (how the volume shrinks).
    """
    radii = check_grid("distances", distances)
    ladder = _check_betas(betas)
    if threshold is not None:
        _checks.check_scalar("threshold", threshold, minimum=-np.inf)
    _checks.check_count("num_chains", num_chains, minimum=2)
    _checks.check_count("num_steps", num_steps, minimum=10)
    _checks.check_count("num_warmup", num_warmup)
    landscape = Landscape(eval_fn, quantity, prior, mask)  # the default prior is that of eq. (2)
    sample = _tempering.make_sampler(landscape, ladder, num_chains, num_steps, num_warmup)

    def at_distance(near, distance, key):
        samples = sample(near, distance, key)
        rates = {name: np.asarray(rate, float) for name, rate in samples._asdict().items()}
        del rates["energy"]
        return rates | _estimates(samples.energy, ladder, threshold)

    def measure(
        params: chex.ArrayTree, batches: Batches, key: chex.PRNGKey, *state: Any
    ) -> LocalEntropy:
        near, key = landscape.around(params, batches, state), random_key(key)
        rows = [
            at_distance(near, distance, jax.random.fold_in(key, d))
            for d, distance in enumerate(radii)
        ]
        found: dict[str, Any] = dict.fromkeys(("log_fraction", "log_fraction_sem", "share_below"))
        found |= {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        criteria = {name: found[name] for name in ("r_hat", "ess", "exchange", "share_below")}
        sweeps = num_warmup + num_steps
        return LocalEntropy(
            distance=radii,
            beta=ladder,
            num_weights=near.num_weights,
            reference=landscape.reference(near),
            num_evaluations=len(radii) * num_chains * len(ladder) * sweeps + 1,
            converged=diagnostics.has_converged(**criteria),
            **found,
        )

    return measure


def _estimates(energy, betas, threshold) -> dict[str, np.ndarray]:
    """Computes free energies, log fraction, errors and diagnostics at one distance."""
    integrate = functools.partial(free_energy.thermodynamic_integration, betas=betas)
    integrated = integrate(energy)
    start = np.nan_to_num(integrated, posinf=0.0, neginf=0.0)
    found = free_energy.reweight(energy, betas, start, -np.inf if threshold is None else threshold)
    estimates = {
        "log_volume": found.free,  # eq. (1)
        "log_volume_sem": found.free_sem,
        "integrated": integrated,
        "integrated_sem": free_energy.jackknife(integrate, energy),
        "mean_energy": energy.mean(axis=(0, 1)),
        "ess": diagnostics.effective_sample_size(energy),
        "r_hat": diagnostics.split_r_hat(energy),
    }
    if threshold is not None:
        estimates["log_fraction"], estimates["log_fraction_sem"] = (
            found.log_mass,
            found.log_mass_sem,
        )
        estimates["share_below"] = (energy[..., -1] <= threshold).mean()
    return estimates


def _check_betas(betas) -> np.ndarray:
    values = np.atleast_1d(_checks.real_array("betas", betas))
    values = values[1:] if values.ndim == 1 and values.size and values[0] == 0 else values
    values = np.append(0.0, check_grid("betas", values))
    if not (np.diff(values) > 0).all():
        raise ValueError(f"betas must increase, got {values[1:]}.")
    return values
