r"""Local entropy by sampling: how much of a solution's surroundings solves the task as well."""

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
    r"""Local entropy at D distances and K inverse temperatures, the first of them 0.

    Standard errors are between chains, with C - 1 degrees of freedom: at 8 chains 95% intervals
    reach 2.4 of them to each side. They are too small where `converged` says no.

    Attributes:
      distance: (D,).
      beta: (K,), per unit of the total energy E; beta[0] = 0.
      log_volume: F(beta), (D, K), in nats, of all weights together; 0 without data; nan where the
        energies at neighbouring betas do not overlap.
      log_volume_sem: its standard error.
      integrated: the same by thermodynamic integration, from the same samples; off by the spacing
        of the betas, so that a difference says that they are too far apart.
      integrated_sem: its standard error.
      mean_energy: the mean of E at each beta, (D, K): F' = -E.
      log_fraction: the logarithm of the prior's mass where E <= threshold, (D,); None without a
        threshold, -inf where no sample lies there.
      log_fraction_sem: its standard error, nan where it is -inf.
      share_below: share of samples with E <= threshold at the largest beta, (D,), or None.
      num_weights: number of weights that move: `log_volume / num_weights` is per weight.
      reference: E at the solution itself.
      acceptance: rate at which steps were accepted, (D, K).
      exchange: rate at which neighbouring betas exchanged configurations, (D, K - 1).
      step_size: s of the steps, (D, K).
      ess: number of independent samples that E is worth, all chains together, (D, K).
      r_hat: agreement between chains, (D, K); 1 is good.
      converged: whether r_hat <= 1.05 and ess >= 100 at each beta > 0, exchange >= 0.05 and, with
        a threshold, share_below >= 0.01; (D,).
      num_evaluations: how often a network was evaluated on the data.
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
        """The log-volume at the largest beta, for each distance; printing shows it."""
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
        """Draws the log-volume per weight against the distance, a curve for each beta above 0.

        Args:
          ax: matplotlib axes; those of a new figure by default.
          **style: of the curves, for matplotlib; `label` names them.

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
    r"""The local entropy of a solution at given distances, as a function of (params, batches, key).

    .. math::
      F_d(\beta) = \log \big\langle e^{-\beta E(w')} \big\rangle_{w' \sim P_d}, \qquad
      E = \text{sum over the data of error or loss}

    the logarithm of the share of the surroundings of w, at a distance d, that is left when
    configurations are weighted by their energy: 0 at :math:`\beta = 0`, and at :math:`\beta \to
    \infty` the share that classifies all data correctly. That limit is also estimated at finite
    :math:`\beta`: `log_fraction`, of the configurations with at most `threshold` errors.

    The surroundings :math:`P_d` are a prior: see `flatjax.flatness.priors`. With `"additive"`,
    normal noise of standard deviation d, this is the local entropy that Entropy-SGD descends,
    at :math:`d^2 = 1 / (\beta \gamma)` and with L = E:

    .. math::
      -\frac{1}{\beta} \log \int dw' \,
      e^{-\beta L(w') - \frac{\beta\gamma}{2} \lVert w' - w \rVert^2}
      = -\frac{1}{\beta} \Big( F_d(\beta) + \frac{n}{2} \log 2 \pi d^2 \Big) .

    *Sampling.* Configurations are functions of normal noise z. Each of the betas keeps a
    configuration of its own and proposes :math:`z' = \sqrt{1 - s^2} z + s \xi`, accepted with
    probability :math:`\min(1, e^{-\beta (E' - E)})`: the preconditioned Crank-Nicolson step
    [Cotter et al., 2013], which leaves the prior as it is, however many weights there are; at
    :math:`\beta = 0` (s = 1) samples are independent. s is tuned during warm-up, for an acceptance
    of 0.25. After every step neighbouring betas exchange configurations with probability
    :math:`\min(1, e^{\Delta\beta \Delta E})` (replica exchange), alternately the even and the odd
    pairs. Several such ladders, the chains, start from independent draws of the prior.

    *Estimate.* F from the samples of all betas by reweighting (MBAR [Shirts and Chodera, 2008]),
    and for comparison by thermodynamic integration, :math:`F = -\int_0^\beta \langle E
    \rangle_b \, db`. Standard errors by the jackknife over chains. What has not been found by any
    chain is not in them: look at `converged`, and repeat with twice the steps.

    *Cost.* D C K (num_warmup + num_steps) + 1 evaluations of the data, for D distances, C
    chains and K betas (0 included); C K configurations in memory, with as many proposals. They are
    evaluated in one vmapped call, or one by one where the network has convolutions and runs on CPU.

    *Choice of betas.* The largest such that the configurations wanted are common (`share_below`),
    the others between 0 and it, about geometrically, close enough for `exchange` to stay above
    0.2 or so.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      distances: D distances, in the unit of the prior.
      betas: inverse temperatures, per unit of E; 0 is added if missing.
      quantity: what E sums, a name of `eval_fn`.
      threshold: the largest E (a total: 0 errors, say) of the configurations to be counted.
      prior: name or function, see `flatjax.flatness.priors`.
      mask: pytree of bools (or a function of params returning one); leaves marked False do not
        move. All do, by default.
      num_chains: C, independent ladders.
      num_steps: steps of each, of which every one is recorded.
      num_warmup: steps before them, discarded.

    Returns:
      `fn(params, batches, key, *state) -> LocalEntropy`. Not to be jitted itself. `batches`: a
      sequence, or a function that returns an iterable.

    Raises:
      ValueError: distances or betas that are not positive, finite (and increasing); unknown prior;
        fewer than 2 chains, 10 steps or 1 step of warm-up; later: no batches, batches that can be
        passed over only once, no such quantity, no weights that move.

    Examples:
      A parabola, :math:`F = -\frac{n}{2} \log(1 + \beta d^2)`:

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
    """
    radii = check_grid("distances", distances)
    ladder = _check_betas(betas)
    if threshold is not None:
        _checks.check_scalar("threshold", threshold, minimum=-np.inf)
    _checks.check_count("num_chains", num_chains, minimum=2)
    _checks.check_count("num_steps", num_steps, minimum=10)
    _checks.check_count("num_warmup", num_warmup)
    landscape = Landscape(eval_fn, quantity, prior, mask)
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
    """Free energies and the log fraction at one distance, their errors, and diagnostics."""
    integrate = functools.partial(free_energy.thermodynamic_integration, betas=betas)
    integrated = integrate(energy)
    start = np.nan_to_num(integrated, posinf=0.0, neginf=0.0)
    found = free_energy.reweight(energy, betas, start, -np.inf if threshold is None else threshold)
    estimates = {
        "log_volume": found.free,
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
