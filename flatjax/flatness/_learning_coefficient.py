r"""The local learning coefficient: how fast the volume of good weights shrinks with the loss."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import numpy as np

from flatjax import _checks
from flatjax._evaluation import EvalFn, check_sums
from flatjax._masks import Mask
from flatjax.flatness import _tempering
from flatjax.flatness._coefficient import LearningCoefficient, summarize
from flatjax.flatness._inputs import Batches, check_grid, random_key
from flatjax.flatness._langevin_chains import LangevinChains
from flatjax.flatness._minibatches import Minibatches
from flatjax.flatness._surroundings import Landscape

SAMPLERS = ("langevin", "tempered")
# Default ladder of tempered chains: 0, and this many betas, each twice the one below.
RUNGS = 12


def learning_coefficient(
    eval_fn: EvalFn,
    *,
    quantity: str = "loss",
    beta: float | None = None,
    localization: float = 1.0,
    mask: Mask = None,
    sampler: str = "langevin",
    step_size: float | None = None,
    betas: Sequence[float] | None = None,
    num_chains: int = 8,
    num_steps: int = 2000,
    num_warmup: int = 1000,
) -> Callable[..., LearningCoefficient]:
    r"""The local learning coefficient of a solution, as a function of (params, batches, key).

    .. math::
      \hat\lambda = \beta \, \big(\langle E \rangle - E(w^*)\big), \qquad
      \langle \cdot \rangle \text{ over } e^{-\beta E(w)
      - \frac{\gamma}{2} \lVert w - w^* \rVert^2}, \qquad E = \sum_i \ell_i = n L

    [Lau et al., 2023], at :math:`\beta = 1 / \log n` by default. It is half the number of weights
    at a regular minimum and less at a singular one: the volume in which the loss is within
    :math:`\epsilon` of the minimum is of order :math:`\epsilon^\lambda` [Watanabe, 2009].

    *What the interval is of.* The expectation at this n, :math:`\beta` and :math:`\gamma`, not its
    limit. For a quadratic loss whose Hessian has the eigenvalues :math:`h_i` it is

    .. math:: \tfrac{1}{2} \sum_i \frac{n \beta h_i}{n \beta h_i + \gamma},

    which is half the number of eigenvalues well above :math:`\gamma / n \beta`. With a multiplicity
    m the limit is approached as :math:`\lambda - (m - 1) / \log n \beta`, slowly.

    *Langevin chains* (`sampler="langevin"`) start at the solution. With several batches they are
    stochastic gradient Langevin dynamics: each step uses one batch drawn at random, with control
    variates at the solution and less noise by what the batches add; steps are exact in a parabola.
    The warm-up finds the step size, a diagonal preconditioner, and a momentum with which chains
    cross directions in which only the spring holds them. With one batch of all data every step is
    accepted or rejected, and the chains are exact. A `step_size` that is given is that of plain
    steps, :math:`w \leftarrow w - \frac{\epsilon}{2} \nabla U + \sqrt{\epsilon} \xi`, without
    preconditioner and momentum.

    *Tempered chains* (`sampler="tempered"`) are those of `local_entropy` with the additive prior
    at the distance :math:`1 / \sqrt\gamma`: exact, without gradients, for up to tens of weights.

    *Errors.* Between chains, with C - 1 degrees of freedom; see `converged` and `problems`.
    Printing the result shows all of it, its `plot()` draws the chains.

    *Cost.* Langevin: a step is one gradient of a batch for each chain and one for the solution,
    two for each chain while steps are tuned, vmapped; about 5 C vectors of the size of the weights
    in memory. Sequences of batches of one shape are kept on the device. Tempered: C K evaluations
    of the data a step, for K betas.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      quantity: what E sums, a name of `eval_fn`: differentiable, for Langevin chains.
      beta: inverse temperature per unit of E; 1 / log n by default.
      localization: :math:`\gamma`: the spring allows :math:`1 / \sqrt\gamma` to each weight.
      mask: pytree of bools (or a function of params returning one); leaves marked False do not
        move: the coefficient of a block is that of the loss as a function of its weights alone.
      sampler: `"langevin"` or `"tempered"`.
      step_size: :math:`\epsilon` of Langevin chains; None to tune it.
      betas: ladder of tempered chains, increasing up to `beta`; by default 12, each twice the one
        below. 0 is added.
      num_chains: C.
      num_steps: T, steps of each chain that are recorded.
      num_warmup: steps before them: 60% to tune, 40% to settle.

    Returns:
      `fn(params, batches, key, *state) -> LearningCoefficient`. Not to be jitted itself.
      `batches`: a sequence, or a function that returns an iterable, of batches of about one size.

    Raises:
      ValueError: a number that is not positive and finite; fewer than 2 chains, 10 steps or 10
        steps of warm-up; unknown sampler; betas that do not increase up to beta; later: no batches,
        batches that can be passed over only once, no such quantity, no weights that move, fewer
        than 3 examples without `beta`.

    References:
      Lau, Furman, Wang, Murfet, Wei, `The local learning coefficient: a singularity-aware
      complexity measure <https://arxiv.org/abs/2308.12108>`_, 2023. Watanabe, Algebraic geometry
      and statistical learning theory, 2009. Watanabe, A widely applicable Bayesian information
      criterion, 2013.

    Examples:
      Two weights of which only the first matters, :math:`\lambda = 1 / 2`:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import learning_coefficient
      >>> def eval_fn(params, batch):
      ...     return {"loss": 0.5 * 1e5 * params[0] ** 2, "count": jnp.array(1e5)}
      >>> measure = learning_coefficient(eval_fn)
      >>> found = measure(jnp.zeros(2), [0], jax.random.key(0))
      >>> bool(abs(found.mean - 0.5) < 4 * found.sem), found.converged
      (True, True)
    """
    _check(beta, localization, sampler, step_size, num_chains, num_steps, num_warmup)
    length = {"num_steps": num_steps, "num_warmup": num_warmup}
    if betas is not None and sampler != "tempered":
        raise ValueError('betas must be None unless sampler="tempered".')
    if sampler == "tempered":
        if step_size is not None:
            raise ValueError("step_size must be None for tempered chains, which tune it.")
        sample = _tempered(eval_fn, quantity, mask, localization, betas, num_chains, length)
    else:
        sample = _langevin(eval_fn, quantity, mask, localization, step_size, num_chains, length)

    def measure(
        params: chex.ArrayTree, batches: Batches, key: chex.PRNGKey, *state: Any
    ) -> LearningCoefficient:
        return sample(params, batches, random_key(key), state, beta)

    return measure


def _langevin(eval_fn, quantity, mask, gamma, step_size, num_chains, length):
    minibatches = Minibatches(eval_fn, quantity, mask)
    chains = LangevinChains(minibatches, num_chains)

    def sample(params, batches, key, state, beta):
        near = minibatches.around(params, batches, state)
        beta = _inverse_temperature(beta, near.num_examples)
        run = chains.run(near, key, beta=beta, gamma=gamma, step_size=step_size, **length)
        return summarize(
            run.energy,
            run.temperature,
            beta=beta,
            localization=gamma,
            num_examples=near.num_examples,
            num_weights=near.slope.size,
            loss=near.energy / near.num_examples,
            step_size=run.step_size,
            acceptance=run.acceptance,
            num_evaluations=run.num_gradients,
        )

    return sample


def _tempered(eval_fn, quantity, mask, gamma, betas, num_chains, length):
    landscape = Landscape(eval_fn, quantity, "additive", mask)
    count = jax.jit(lambda *given: check_sums(eval_fn(*given))["count"])
    sweeps = sum(length.values())

    def sample(params, batches, key, state, beta):
        near = landscape.around(params, batches, state)
        num_examples = float(sum(np.asarray(count(params, b, *state)) for b in near.batches))
        beta = _inverse_temperature(beta, num_examples)
        ladder = _ladder(betas, beta)
        draw = _tempering.make_sampler(landscape, ladder, num_chains, **length)
        samples, reference = draw(near, gamma**-0.5, key), landscape.reference(near)
        return summarize(
            beta * (samples.energy[..., -1] - reference),
            np.full(num_chains, np.nan),
            beta=beta,
            localization=gamma,
            num_examples=num_examples,
            num_weights=near.num_weights,
            loss=reference / num_examples,
            step_size=float(samples.step_size[-1]),
            acceptance=float(samples.acceptance[-1]),
            num_evaluations=num_chains * len(ladder) * sweeps + 1,
        )

    return sample


def _inverse_temperature(beta, num_examples):
    if beta is not None:
        return float(beta)
    if num_examples < 3:
        raise ValueError(f"beta must be given for fewer than 3 examples, got {num_examples:g}.")
    return float(1 / np.log(num_examples))


def _ladder(betas, beta):
    if betas is None:
        return np.append(0.0, beta * 2.0 ** np.arange(1 - RUNGS, 1))
    values = check_grid("betas", betas)
    if not (np.diff(values) > 0).all() or not np.isclose(values[-1], beta):
        raise ValueError(f"betas must increase up to beta = {beta:g}, got {values}.")
    return np.append(0.0, values)


def _check(beta, localization, sampler, step_size, num_chains, num_steps, num_warmup):
    positive = {"beta": beta, "localization": localization, "step_size": step_size}
    for name, value in positive.items():
        if value is not None or name == "localization":
            _checks.check_number(name, value, minimum=0.0, exclusive_minimum=True)
    _checks.check_choice("sampler", sampler, SAMPLERS)
    _checks.check_count("num_chains", num_chains, minimum=2)
    _checks.check_count("num_steps", num_steps, minimum=10)
    _checks.check_count("num_warmup", num_warmup, minimum=10)
