r"""The local learning coefficient: the scaling of the volume of low loss."""

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
# Default ladder of tempered chains: 0, and this many betas, each twice the previous one.
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
    r"""Makes a function that estimates the local learning coefficient of a solution.

    .. math::
      \hat\lambda = \beta \, \big(\langle E \rangle - E(w^*)\big), \qquad
      \langle \cdot \rangle \text{ over } e^{-\beta E(w)
      - \frac{\gamma}{2} \lVert w - w^* \rVert^2}, \qquad E = \sum_i \ell_i = n L \tag{1}

    [Lau et al., 2023]. Here n is the number of examples, and :math:`\beta = 1 / \log n` by default.
    At a regular minimum :math:`\lambda` is half the number of weights; at a singular minimum it is
    smaller. The volume in which the loss is within :math:`\epsilon` of the minimum is of order
    :math:`\epsilon^\lambda` [Watanabe, 2009].

    *Meaning of the interval.* The interval is for the expectation at this n, :math:`\beta` and
    :math:`\gamma`, not for its limit. For a quadratic loss whose Hessian has the eigenvalues
    :math:`h_i`, the expectation is

    .. math:: \tfrac{1}{2} \sum_i \frac{n \beta h_i}{n \beta h_i + \gamma}, \tag{2}

    which is half the number of eigenvalues well above :math:`\gamma / n \beta`. At a singularity of
    multiplicity m, the estimate :math:`\lambda - (m - 1) / \log n \beta` approaches the limit
    slowly.

    *Langevin chains* (`sampler="langevin"`) start at the solution. With several batches they are
    stochastic gradient Langevin dynamics: each step uses one batch drawn at random. Control
    variates at the solution reduce the noise of the batches, and the added noise is reduced by the
    rest. Steps are exact in a parabola. The warm-up finds the step size, a diagonal preconditioner,
    and a momentum; with momentum, chains quickly cross directions in which only the spring acts.
    With one batch of all data every step is accepted or rejected, and the chains are exact. If you
    give a `step_size`, the chains make plain steps,
    :math:`w \leftarrow w - \frac{\epsilon}{2} \nabla U + \sqrt{\epsilon} \xi`, without
    preconditioner and momentum.

    *Tempered chains* (`sampler="tempered"`) are the chains of `local_entropy` with the additive
    prior at the distance :math:`1 / \sqrt\gamma`. They are exact and need no gradients, but serve
    only up to tens of weights.

    *Errors.* Standard errors are computed between chains, with C - 1 degrees of freedom. See
    `converged` and `problems`. Printing the result shows everything, and `plot()` draws the chains.

    *Cost.* A Langevin step takes one gradient of a batch for each chain and one for the solution,
    vmapped. While steps are tuned, it takes two for each chain. Memory holds about 5 C vectors of
    the size of the weights. Sequences of batches of one shape are kept on the device. A tempered
    step takes C K evaluations of the data, for K betas.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`.
      quantity: name of the loss that E sums, as `eval_fn` returns it. It must be differentiable for
        Langevin chains.
      beta: inverse temperature per unit of E; 1 / log n by default.
      localization: :math:`\gamma`. The spring allows each weight to move by about
        :math:`1 / \sqrt\gamma`.
      mask: pytree of bools (or a function of params returning one); leaves marked False do not
        move. The coefficient then describes the loss as a function of the other weights only.
      sampler: `"langevin"` or `"tempered"`.
      step_size: :math:`\epsilon` of Langevin chains; None tunes it.
      betas: ladder of tempered chains, increasing up to `beta`. The default has 12, each twice the
        previous one. 0 is added.
      num_chains: C.
      num_steps: T, the number of recorded steps of each chain.
      num_warmup: number of steps before them: 60% tune the steps, and in 40% the chains settle.

    Returns:
      `fn(params, batches, key, *state) -> LearningCoefficient`. Do not jit it.
      `batches`: a sequence, or a function that returns an iterable, of batches of about one size.

    Raises:
      ValueError: a number that is not positive and finite; fewer than 2 chains, 10 steps or 10
        warm-up steps; an unknown sampler; betas that do not increase up to beta. When called: no
        batches, batches that can be iterated only once, an unknown quantity, no weights that move,
        or fewer than 3 examples without `beta`.

    References:
      Lau, Furman, Wang, Murfet, Wei, `The local learning coefficient: a singularity-aware
      complexity measure <https://arxiv.org/abs/2308.12108>`_, 2023. Watanabe, Algebraic geometry
      and statistical learning theory, 2009. Watanabe, A widely applicable Bayesian information
      criterion, 2013.

    Examples:
      Two weights, of which only the first affects the loss, :math:`\lambda = 1 / 2`:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax.flatness import learning_coefficient
      >>> def eval_fn(params, batch):
      ...     return {"loss": 0.5 * 1e5 * params[0] ** 2, "count": jnp.array(1e5)}
      >>> measure = learning_coefficient(eval_fn)
      >>> found = measure(jnp.zeros(2), [0], jax.random.key(0))
      >>> bool(abs(found.mean - 0.5) < 4 * found.sem), found.converged
      (True, True)

    See Also:
      `learning_coefficient_of_training` (without a measurement), `local_entropy` (the same integral
      at one distance).
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
            run.energy,  # its mean is eq. (1)
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
            beta * (samples.energy[..., -1] - reference),  # its mean is eq. (1)
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
