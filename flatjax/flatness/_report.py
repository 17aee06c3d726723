"""Measures how flat a solution is by many measures, in one call."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import numpy as np

from flatjax import _checks
from flatjax._evaluation import EvalFn
from flatjax._keys import is_typed
from flatjax._masks import Mask
from flatjax.flatness import _inputs
from flatjax.flatness._blocks import masks_of, paths_of, size_of
from flatjax.flatness._check_eval_fn import check_eval_fn
from flatjax.flatness._effort import MEASURES, NEEDS_ERROR, Effort, cost_of, effort_of
from flatjax.flatness._kept import kept
from flatjax.flatness._measurements import Measurements
from flatjax.flatness._passes import Passes
from flatjax.flatness._progress import Progress
from flatjax.flatness._quantities import check_quantity
from flatjax.flatness._report_result import Report


def report(
    eval_fn: EvalFn,
    params: chex.ArrayTree,
    batches: _inputs.Batches,
    key: chex.PRNGKey,
    *state: Any,
    measures: Sequence[str] | None = None,
    level: str = "standard",
    num_samples: int | None = None,
    loss: str = "loss",
    mask: Mask = None,
    blocks: Mapping[str, Mask] | str | None = None,
    progress: bool | None = None,
) -> Report:
    r"""Measures how flat a solution is by many measures, and returns one table.

    Every number has a standard error. If a measure draws noise, random vectors or chains, it is
    computed over these. Otherwise it is computed over the examples, by a bootstrap of the batches,
    and is correct to first order. Each batch contributes its value at the perturbation (or
    eigenvector) that was found with all batches. The perturbation also depends on the batches. This
    has no effect to first order at a maximum: for the eigenvalue, and for the worst case once the
    ascent has reached it. For SAM's and adaptive sharpness, the contribution of batch b has a term
    for it,

    .. math::
      v \cdot (g_b - s_b g), \qquad
      v = \frac{\rho}{\lVert W g \rVert} \Big( W^2 G
      - \frac{G \cdot W^2 g}{\lVert W g \rVert^2} \, W^2 g \Big), \tag{1}

    with the gradient g of the mean loss at w, and G at the perturbed point. Batch b contributes
    :math:`g_b` to g, and has the share :math:`s_b` of the examples. :math:`W` is 1, or
    :math:`\mathrm{diag}(|w|)` for adaptive sharpness. Give the data in at least 10 batches.

    ========================  ===========================================================
    measure                   the number
    ========================  ===========================================================
    `"local_energy"`          rise under multiplicative noise, of each quantity
    `"weight_noise"`          noise at which the error rises by 0.05 (PAC-Bayes sigma)
    `"sam_sharpness"`         rise of the loss one gradient step of length 0.05 away
    `"adaptive_sharpness"`    the same, with a radius of 0.5 relative to each weight
    `"worst_case_sharpness"`  highest rise of the loss found within a distance of 0.05
    `"quantization"`          rise of the error by rounding of matrices to 4 and 3 bits
    `"pruning"`               rise of the error without 70 % and 90 % of matrices' entries
    `"top_eigenvalue"`        of the Hessian of the loss
    `"trace"`                 of the Hessian of the loss
    `"spectral_density"`      share of its eigenvalues below -1 % of the largest
    `"learning_coefficient"`  local learning coefficient, with localization 100
    ========================  ===========================================================

    Each is the function of that name in `flatjax.flatness`, called with the same key.
    (`"adaptive_sharpness"` is `sam_sharpness` with `adaptive=True`; `"top_eigenvalue"` is
    `top_eigenvalues`.) Its result is in `results` of the report. Tolerated noise is read from the
    local energy. Local entropy and slices need your own choices, and are not part of a report. For
    classifiers "error" is the first quantity. Without it, rounded and pruned weights are judged by
    the loss, and `"weight_noise"` is omitted by default.

    *Levels and their cost*, in passes over the data for each block. A gradient costs about three
    evaluations, and a product of the Hessian with a vector about eight. The
    table includes two gradients each for the standard errors of SAM's and adaptive sharpness.

    ============  ============================  ===========  =========  ========  ===============
    level         measures                      evaluations  gradients  products  batch gradients
    ============  ============================  ===========  =========  ========  ===============
    `"quick"`     no curvature, no worst case   33           6          0         0
    `"standard"`  all but the last two          91           16         27        0
    `"thorough"`  all                           611          27         292       35,000
    ============  ============================  ===========  =========  ========  ===============

    The next table was measured in CPU seconds on a shared virtual machine with two x86 cores, on
    which compilation may take twice as long as on your machine. The data are in ten batches. Later
    calls grow with the number of examples, and with the passes of a level.

    =======================================  ============  ==========  ===========
    network and data                         level         first call  later calls
    =======================================  ============  ==========  ===========
    ResNet-8 (75,002 weights), 100 28x28     `"quick"`     60          3.2
    ResNet-8 (75,002 weights), 1,000 28x28   `"quick"`     66          23
    ResNet-8 (75,002 weights), 1,000 28x28   `"standard"`  313         -
    MLP (2,368 weights), 200 vectors         `"quick"`     9           0.2
    MLP (2,368 weights), 200 vectors         `"standard"`  16          0.6
    MLP (2,368 weights), 200 vectors         `"thorough"`  29          5.3
    =======================================  ============  ==========  ===========

    On both cores, the ResNet-8 with 1,000 images takes 42 seconds at `"quick"`, and 14 later.

    The seconds were measured without the four gradients for the standard errors. By the numbers of
    passes, `"quick"` takes a third longer with them.

    Programs are compiled once for each `eval_fn` and serve all solutions of the same shapes.

    Args:
      eval_fn: `eval_fn(params, batch, *state) -> {"count": n, name: sum, ...}`, see
        `flatjax.evaluate`. `flatjax.flatness.classification` and similar functions make it. It is
        checked by `flatjax.flatness.check_eval_fn`.
      params: the parameters.
      batches: a list of batches, or another form that can be iterated again; usually training data.
      key: a random key or a seed. Solutions that are measured with the same key and batches can be
        compared by `flatjax.flatness.compare`.
      *state: other inputs of `eval_fn`, such as batch statistics; they are fixed.
      measures: names of measures; by default, the measures of the level.
      level: `"quick"`, `"standard"` or `"thorough"`.
      num_samples: number of draws of the noise, and of random vectors for the trace; by default,
        the number of the level.
      loss: name of the differentiable quantity.
      mask: pytree of bools (or a function of params returning one); leaves marked False do not
        move.
      blocks: also measures blocks of the weights, each while the others are fixed:
        {name: mask of the block}, or `"layers"` for the top-level entries of the parameters. The
        cost is the cost of one block times their number plus one.
      progress: prints the cost at the start and a progress bar, on stderr. By default the bar is
        shown if tqdm is installed and stderr is a terminal.

    Returns:
      A `Report`.

    Raises:
      ValueError: an unknown measure or level; an error that `check_eval_fn` finds; a batch whose
        sum is NaN or infinite; no batches, or an iterator; no quantity called `loss`; a mask or a
        block without weights.
      TypeError: parameters, key or `eval_fn` have a wrong type.
      ImportError: `progress=True` without tqdm.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from flatjax import flatness
      >>> eval_fn = flatness.regression(lambda params, x: x @ params)
      >>> x = jax.random.normal(jax.random.key(0), (8, 20, 3))
      >>> batches = [(one, one @ jnp.ones(3)) for one in x]
      >>> found = flatness.report(eval_fn, jnp.ones(3), batches, 0, measures=["trace"])
      >>> row = found["trace"]  # of 2 x^T x / n, 6 in expectation
      >>> bool(abs(row.value - 6) < 1), row.setting
      (True, 'Hessian')

    See Also:
      `compare` (which of two is flatter), `check_eval_fn` (checks `eval_fn`), `local_energy` (one
      measure alone).
    """
    effort = effort_of(level, num_samples)
    key = _inputs.random_key(key)
    check_eval_fn(eval_fn, params, batches, *state)
    bar = Progress()
    passes = Passes(jax.jit(eval_fn), params, batches, state, bar.tick)
    check_quantity(loss, passes.reference, argument="loss")
    quantities = sorted(passes.reference, key=lambda name: (name != "error", name))
    names = _names(measures, effort, quantities)
    masks = masks_of(params, mask, blocks)
    cost = cost_of(names, effort) * len(masks)
    start = time.perf_counter()
    rows, results = [], {}
    with bar.shown(progress, names, cost, passes.num_batches):
        for block, of_block in masks.items():
            measure = _measurements(
                eval_fn, tuple(quantities), loss, passes.num_batches, effort, of_block, block
            )
            found, results[block] = measure(names, params, passes, key, state, bar.done)
            rows += found
    return Report(
        rows=tuple(rows),
        reference={name: passes.reference[name] for name in quantities},
        level=level,
        num_examples=passes.num_examples,
        num_batches=passes.num_batches,
        num_weights={name: size_of(params, of_block) for name, of_block in masks.items()},
        cost=cost,
        seconds=time.perf_counter() - start,
        key=np.asarray(jax.random.key_data(key) if is_typed(key) else key).tolist(),
        fingerprint=passes.fingerprint,
        leaves=paths_of(params),
        moving={name: paths_of(_inputs.weights(params, one)) for name, one in masks.items()},
        results=results,
    )


def _names(measures, effort: Effort, quantities) -> tuple[str, ...]:
    """Returns the names of the measures, in the order of the table."""
    if measures is None:
        has_error = "error" in quantities
        return tuple(name for name in effort.measures if has_error or name not in NEEDS_ERROR)
    given = (measures,) if isinstance(measures, str) else tuple(measures)
    for name in given:
        _checks.check_choice("measures", name, MEASURES)
    if not given:
        raise ValueError(f"measures must name at least one of {', '.join(MEASURES)}, got none.")
    return tuple(name for name in MEASURES if name in given)


# The measures of a block, which may be compiled already.
_measurements = kept(maxsize=32)(Measurements)
