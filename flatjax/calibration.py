r"""Calibration: how far a classifier's predicted probabilities can be trusted.

A network that was trained until it fits its data is often overconfident. Its loss on new data then
depends as much on the scale of its logits as on what it has learned. `fit_temperature` finds the
scale of the logits that fits validation data best. The loss at this scale says what was learned.

Labels count from 0. A label that is no class is an error; if the labels are traced, the result is
NaN. Remove examples without a label first: no label marks an example that is left out.
"""

import jax
import jax.numpy as jnp
import numpy as np

from flatjax import _checks

__all__ = ["brier_score", "expected_calibration_error", "fit_temperature"]


def fit_temperature(
    logits: jax.Array, labels: jax.Array, *, bounds: tuple[float, float] = (0.01, 100.0)
) -> jax.Array:
    r"""Fits the temperature that scales the logits to the least loss.

    .. math::
      T^* = \mathrm{arg\,min}_T \, \frac1n \sum_i \Big[
        \log \sum_c e^{z_{ic} / T} - z_{i y_i} / T \Big] \tag{1}

    Here T is the temperature, z the logits and y the labels of n examples [Guo et al., 2017]. The
    loss is convex in :math:`\beta = 1 / T`. With the probabilities p of the scaled logits, its
    derivative is the mean of :math:`\sum_c p_{ic}(\beta) z_{ic} - z_{i y_i}`, which grows with
    :math:`\beta`. Bisection of :math:`\log T` finds its zero. Fit the temperature on validation
    data, and evaluate on other data with
    ``optax.softmax_cross_entropy_with_integer_labels(logits / temperature, labels)``.

    Args:
      logits: scores of the classes, (n, C), of any scale.
      labels: the classes, integers from 0 to C - 1, of shape (n,).
      bounds: the smallest and the largest temperature allowed. The smallest is the result if every
        example is classified correctly. The largest is the result if the logits carry no
        information, also if those of each example are equal.

    Returns:
      The temperature, a scalar of float32 at least. May be jitted, and vmapped over networks.

    Raises:
      TypeError, ValueError: logits or labels have other dtypes or shapes, a label is no class, or
        bounds are not 0 < least < largest < inf.

    Examples:
      The logits claim a probability of 98%, but only three of four examples are correct:

      >>> import jax.numpy as jnp
      >>> from flatjax import calibration
      >>> logits = jnp.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0]])
      >>> temperature = calibration.fit_temperature(logits, jnp.array([0, 0, 1, 0]))
      >>> round(float(4.0 / temperature), 3), round(float(jnp.log(3.0)), 3)
      (1.099, 1.099)

    See Also:
      `expected_calibration_error` (what it lowers), `brier_score` (a proper score).
    """
    logits, labels = _check(logits, labels)
    ends = _checks.real_array("bounds", bounds)
    if ends.shape != (2,) or not 0 < ends[0] < ends[1] < np.inf:
        raise ValueError(
            f"bounds must be (least, largest) with 0 < least < largest < inf, got {bounds}."
        )
    # Scores relative to the right class: their expectation is the derivative of eq. (1) by 1 / T.
    relative = logits - jnp.take_along_axis(logits, labels[:, None], axis=-1)
    is_constant = ~relative.any()  # every temperature has the same loss

    def halve(_, interval):
        low, high = interval
        middle = (low + high) / 2
        probabilities = jax.nn.softmax(relative * jnp.exp(-middle), axis=-1)
        is_too_sure = jnp.sum(probabilities * relative) > 0
        is_above = is_too_sure | is_constant
        return jnp.where(is_above, middle, low), jnp.where(is_above, high, middle)

    low, high = jnp.log(jnp.asarray(ends, logits.dtype))
    steps = jnp.finfo(logits.dtype).nmant + 8  # halve an interval of about 10 down to one ulp
    low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
    temperature = jnp.exp((low + high) / 2)
    return jnp.where(jnp.isfinite(logits).all(), temperature, jnp.nan)


def expected_calibration_error(
    logits: jax.Array, labels: jax.Array, *, num_bins: int = 15
) -> jax.Array:
    r"""Computes the expected calibration error (ECE) with bins of equal counts.

    .. math::
      \mathrm{ECE} = \sum_b \frac{n_b}{n} \, \big| \mathrm{acc}(b) - \mathrm{conf}(b) \big| \tag{2}

    In bin b, acc is the accuracy and conf the mean confidence: the probability of the predicted
    class. The examples are sorted by confidence and cut into bins of (nearly) equal numbers. Bins
    of equal width would put nearly all examples of an accurate network into one bin, and a handful
    into the others [Nguyen & O'Connor, 2015; Nixon et al., 2019]. Examples of equal confidence may
    lie in two bins; each then counts with the mean accuracy of all of them, so that the order of
    the examples does not matter. In a finite sample the error is above 0 even for a calibrated
    network, by about :math:`\sqrt{\mathrm{bins} / n}` times the spread of the outcomes. Compare
    errors only at equal n.

    Args:
      logits: scores of the classes, (n, C).
      labels: the classes, integers from 0 to C - 1, of shape (n,).
      num_bins: the number of bins, at most n.

    Returns:
      A scalar in [0, 1]. May be jitted, and vmapped over networks.

    Raises:
      TypeError, ValueError: logits or labels have other dtypes or shapes, a label is no class, or
        num_bins < 1 or > n.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import calibration
      >>> logits = jnp.log(jnp.array([[0.75, 0.25]] * 4))
      >>> labels = jnp.array([0, 0, 0, 1])
      >>> round(float(calibration.expected_calibration_error(logits, labels, num_bins=1)), 3)
      0.0

    See Also:
      `fit_temperature` (lowers it), `brier_score` (also counts errors).
    """
    logits, labels = _check(logits, labels)
    _checks.check_count("num_bins", num_bins)
    number = len(labels)
    if num_bins > number:
        raise ValueError(f"num_bins must be at most the {number} examples, got {num_bins}.")
    confidence = jax.nn.softmax(logits, axis=-1).max(axis=-1)
    order = jnp.argsort(confidence)
    confidence, is_right = confidence[order], (logits.argmax(axis=-1) == labels)[order]
    is_tied = confidence[1:] == confidence[:-1]
    group = jnp.append(0, jnp.cumsum(~is_tied))  # of equal confidence
    count, right = (
        jax.ops.segment_sum(values, group, number, indices_are_sorted=True)[group]
        for values in (jnp.ones_like(confidence), is_right.astype(confidence.dtype))
    )
    excess = confidence - right / count
    bin_of = np.arange(number) * num_bins // number
    totals = jax.ops.segment_sum(excess, bin_of, num_bins, indices_are_sorted=True)
    return jnp.abs(totals).sum() / number  # eq. (2)


def brier_score(logits: jax.Array, labels: jax.Array) -> jax.Array:
    r"""Computes the Brier score: squared distance of probabilities from outcomes.

    .. math::
      \frac1n \sum_i \sum_c \big( p_{ic} - \mathbb{1}[c = y_i] \big)^2 \tag{3}

    It lies between 0 and 2 [Brier, 1950]. Like the loss, it is a proper score; unlike the loss, it
    is bounded.

    Args:
      logits: scores of the classes, (n, C).
      labels: the classes, integers from 0 to C - 1, of shape (n,).

    Returns:
      A scalar. May be jitted, and vmapped over networks.

    Raises:
      TypeError, ValueError: logits or labels have other dtypes or shapes, or a label is no class.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import calibration
      >>> float(calibration.brier_score(jnp.zeros((3, 2)), jnp.array([0, 1, 1])))
      0.5

    See Also:
      `expected_calibration_error` (calibration alone), `fit_temperature` (improves both).
    """
    logits, labels = _check(logits, labels)
    outcomes = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jnp.mean(jnp.sum((jax.nn.softmax(logits, axis=-1) - outcomes) ** 2, axis=-1))  # eq. (3)


def _check(logits, labels) -> tuple[jax.Array, jax.Array]:
    """Checks logits and labels of n examples; logits become float32 at least."""
    given = labels
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be real floating-point numbers, got {logits.dtype}.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}.")
    if logits.ndim != 2 or not logits.size:
        raise ValueError(f"logits must be of shape (examples, classes), got {logits.shape}.")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must be of shape {logits.shape[:1]}, one for each row of logits, got "
            f"{labels.shape}."
        )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    num_classes = logits.shape[1]
    if isinstance(given, jax.core.Tracer):
        is_class = (labels >= 0) & (labels < num_classes)
        return jnp.where(is_class[:, None], logits, jnp.nan), labels
    given = np.asarray(given)
    outside = given[(given < 0) | (given >= num_classes)]
    if len(outside):
        raise ValueError(
            f"labels must be in [0, {num_classes - 1}] for logits of {num_classes} classes, got "
            f"{outside[0]}. Labels count from 0: subtract 1 if yours count from 1."
        )
    return logits, labels
