r"""Evaluation functions for common tasks: sums of loss and error, and a count.

Let z be the outputs of a network for the examples i of a batch, y their targets and :math:`m_i`
their weights (1 by default). Then

.. math::
  \mathrm{count} = \sum_i m_i, \quad
  \mathrm{loss} = \sum_i m_i \, \ell(z_i, y_i), \quad
  \mathrm{error} = \sum_i m_i \, [\arg\max z_i \ne y_i] \tag{1}

An example whose largest logit is NaN or infinite counts as an error, so that the error of a network
that diverged is 1. (Single logits may be -inf: these classes are excluded.)
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flatjax import _additivity
from flatjax._evaluation import EvalFn
from flatjax.flatness._apply import evaluation_mode

INPUTS = ("image", "images", "inputs", "input", "x", "features")
TARGETS = ("label", "labels", "targets", "target", "y")
WEIGHTS = ("weight", "weights", "mask")
TOKENS = ("tokens", "input_ids", *INPUTS)
IGNORED = -100  # a target that does not count, as in PyTorch and Hugging Face


class Examples(NamedTuple):
    """The parts of a batch.

    Attributes:
      inputs: inputs of the network.
      targets: targets; None if the inputs contain them.
      weights: weights of the examples; None for 1.
    """

    inputs: Any
    targets: Any
    weights: Any


Read = Callable[[Any], Any] | str | None


def classification(
    apply_fn: Any,
    *,
    inputs: Read = None,
    targets: Read = None,
    weights: Read = None,
    **options: Any,
) -> EvalFn:
    r"""Makes the `eval_fn` of a classifier: sums of cross-entropy and error.

    The network is in evaluation mode: dropout is off, and batch norm uses its running statistics,
    which you pass as `state`.

    Args:
      apply_fn: the network. One of

        - a flax.linen module, or its `apply`. State is `{"batch_stats": ...}` or the batch
          statistics themselves. Arguments of the module called `train`, `training` or
          `is_training` are set to False, `deterministic` and `use_running_average` to True.
        - a function `apply_fn(params, inputs, *state) -> logits`. Arguments with these names are
          set in the same way.
        - a function whose second argument is called `state`, `apply_fn(params, state, inputs)`, as
          `flatjax.models.load` returns it. An argument called `rng` gets None.
      inputs: name of the inputs in a batch that is a mapping, or a function of the batch. The
        default is the first element of a pair, or the first of "image", "images", "inputs", "x",
        ... that is in the mapping.
      targets: name or function of the labels, in the same way. Labels are integers of shape (B,
        ...), or probabilities (B, ..., C). The default is the second element of a pair, or "label",
        "labels", "targets", "y", ... Integers count from 0; those of -100 are ignored. If another
        integer is no class and has a weight, loss and error are NaN.
      weights: name or function of the labels' weights, in the same way. They have the shape of the
        labels; 0 marks padding. The default is the third element of a triple, or "weight",
        "weights" or "mask" if the mapping has one, or 1.
      **options: further arguments of `apply_fn`.

    Returns:
      `eval_fn(params, batch, *state) -> {"count", "loss", "error"}`, jitted. Sums are in float32.

    Raises:
      TypeError: `apply_fn` is no function. When called: labels are neither integers nor
        probabilities.
      ValueError: (when called) the shapes of logits and labels do not match, or a batch lacks the
        inputs, targets or weights.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import flatness
      >>> eval_fn = flatness.classification(lambda params, x: x @ params)
      >>> batch = {"x": jnp.eye(2), "y": jnp.array([0, 0])}
      >>> sums = eval_fn(jnp.zeros((2, 3)), batch)
      >>> float(sums["error"]), int(sums["count"]), round(float(sums["loss"]), 4)
      (0.0, 2, 2.1972)

    See Also:
      `regression` (for real targets), `language_model` (for tokens), `report` (measures with it).
    """
    apply = evaluation_mode(apply_fn, options)
    read = _reader(inputs, targets, weights, INPUTS)

    def eval_fn(params, batch, *state):
        examples = read(batch)
        logits = _float(apply(params, examples.inputs, *state))
        return _cross_entropy(logits, _given(examples, "classification"), examples.weights)

    return jax.jit(_additivity.sums(eval_fn))


def regression(
    apply_fn: Any,
    *,
    inputs: Read = None,
    targets: Read = None,
    weights: Read = None,
    **options: Any,
) -> EvalFn:
    r"""Makes the `eval_fn` of a regression: the squared error, summed over examples.

    .. math:: \ell(z, y) = \frac{1}{D} \sum_d (z_d - y_d)^2

    for outputs of D components. The network is in evaluation mode, see `classification`.

    Args:
      apply_fn: the network, see `classification`.
      inputs: name or function of the inputs in a batch, see `classification`.
      targets: name or function of the targets, with the shape of the outputs, (B, ...).
      weights: name or function of the weights of the examples, (B,).
      **options: further arguments of `apply_fn`.

    Returns:
      `eval_fn(params, batch, *state) -> {"count", "loss"}`, jitted. Sums are in float32.

    Raises:
      TypeError: `apply_fn` is no function.
      ValueError: (when called) outputs and targets differ in shape, or a batch lacks the inputs,
        targets or weights.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flatjax import flatness
      >>> eval_fn = flatness.regression(lambda params, x: x * params)
      >>> sums = eval_fn(jnp.array(2.0), (jnp.array([1.0, 2.0]), jnp.array([2.0, 3.0])))
      >>> float(sums["loss"]), int(sums["count"])
      (1.0, 2)

    See Also:
      `classification` (for labels), `language_model` (for tokens), `report` (measures with it).
    """
    apply = evaluation_mode(apply_fn, options)
    read = _reader(inputs, targets, weights, INPUTS)

    def eval_fn(params, batch, *state):
        examples = read(batch)
        outputs = _float(apply(params, examples.inputs, *state))
        wanted = jnp.asarray(_given(examples, "regression"))
        if outputs.shape != wanted.shape or outputs.ndim < 1:
            raise ValueError(
                f"targets must have the shape of the outputs, {outputs.shape}, got {wanted.shape}: "
                "they would be broadcast against each other. Reshape one of them."
            )
        squares = (outputs - wanted.astype(outputs.dtype)) ** 2
        losses = squares.reshape(len(squares), -1).mean(axis=1)
        count = _weights(examples.weights, losses)
        return {"loss": jnp.sum(count * losses), "count": jnp.sum(count)}

    return jax.jit(_additivity.sums(eval_fn))


def language_model(
    apply_fn: Any,
    *,
    inputs: Read = None,
    targets: Read = None,
    weights: Read = None,
    **options: Any,
) -> EvalFn:
    r"""Makes the `eval_fn` of a language model: next-token cross-entropy in nats.

    An example is a predicted token: `"count"` is the number of tokens, and `"error"` the number of
    tokens that were not predicted as the most probable one. Each position predicts the next token.
    If the batch has targets, each target belongs to its own position. The network is in evaluation
    mode, see `classification`.

    Args:
      apply_fn: the network; it maps tokens (B, T) to logits (B, T, V), see `classification`.
      inputs: name of the tokens in a batch that is a mapping, or a function of the batch. The
        default is the batch itself, the first element of a pair, or "tokens", "input_ids",
        "inputs", ...
      targets: name or function of the targets (B, T); targets of -100 are ignored. If another
        target is no token and has a weight, loss and error are NaN. The default is the second
        element of a pair, "targets" or "target". It is not "labels", which in many libraries are
        the unshifted tokens.
      weights: name or function of the tokens' weights, (B, T); 0 marks padding. The default is
        "attention_mask", "weight", "weights" or "mask", if the mapping has one.
      **options: further arguments of `apply_fn`.

    Returns:
      `eval_fn(params, batch, *state) -> {"count", "loss", "error"}`, jitted. Sums are in float32.

    Raises:
      TypeError: `apply_fn` is no function.
      ValueError: (when called) the shapes of logits and targets do not match, or a batch lacks the
        inputs, targets or weights.

    Examples:
      A model repeats the last token. The text repeats a token twice:

      >>> import jax, jax.numpy as jnp
      >>> from flatjax import flatness
      >>> repeat = lambda params, tokens: params * jax.nn.one_hot(tokens, 3)
      >>> sums = flatness.language_model(repeat)(5.0, jnp.array([[0, 0, 0, 1]]))
      >>> int(sums["count"]), float(sums["error"])
      (3, 1.0)

    See Also:
      `classification` (for images and rows), `regression` (for real targets), `report` (measures
      with it).
    """
    apply = evaluation_mode(apply_fn, options)
    read = _reader(inputs, targets, weights, TOKENS, ("targets", "target"), TOKEN_WEIGHTS)

    def eval_fn(params, batch, *state):
        tokens, wanted, counts = read(batch)
        logits = _float(apply(params, tokens, *state))
        if wanted is None:
            logits, wanted = logits[:, :-1], jnp.asarray(tokens)[:, 1:]
            counts = None if counts is None else jnp.asarray(counts)[:, 1:]
        return _cross_entropy(logits, wanted, counts)

    return jax.jit(_additivity.sums(eval_fn))


TOKEN_WEIGHTS = ("attention_mask", *WEIGHTS)


def _cross_entropy(logits, wanted, weights) -> dict[str, jax.Array]:
    """Computes the sums of eq. (1), for integers (...) or probabilities (..., C)."""
    wanted = jnp.asarray(wanted)
    is_integer = jnp.issubdtype(wanted.dtype, jnp.integer) or wanted.dtype == bool
    expected = logits.shape[:-1] if is_integer else logits.shape
    if logits.ndim < 2 or logits.shape[-1] < 2 or wanted.shape != expected:
        raise ValueError(
            "logits must have shape (B, ..., C) with two classes or more, and targets must be "
            "integers (B, ...), or floats with the shape of the logits, got logits "
            f"{logits.shape} and targets {wanted.dtype}{wanted.shape}."
        )
    if is_integer:
        wanted = wanted.astype(jnp.int32)
        counts = _weights(weights, wanted) * (wanted != IGNORED)
        is_class = (wanted >= 0) & (wanted < logits.shape[-1])
        label = jnp.where(is_class, wanted, 0)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
    else:
        counts = _weights(weights, logits[..., 0])
        label, is_class = wanted.argmax(-1), True
        wanted = wanted.astype(logits.dtype)
        # A class that is excluded by -inf has no loss if its probability is 0.
        terms = jnp.where(wanted == 0, 0.0, wanted * jax.nn.log_softmax(logits))
        losses = -jnp.sum(terms, axis=-1)
    # The largest of logits with a NaN is NaN; argmax would return its position.
    is_right = (logits.argmax(-1) == label) & jnp.isfinite(logits.max(-1))
    # A label that is no class has neither a loss nor an error; padding may have any label.
    total = lambda values: jnp.sum(
        jnp.where(counts != 0, counts * jnp.where(is_class, values, jnp.nan), 0.0)
    )
    return {"loss": total(losses), "error": total(~is_right), "count": jnp.sum(counts)}


def _weights(weights, like) -> jax.Array:
    """Returns weights of the examples in float32, with the shape of `like`."""
    if weights is None:
        return jnp.ones(like.shape, jnp.float32)
    weights = jnp.asarray(weights, jnp.float32)
    if weights.shape != like.shape:
        raise ValueError(f"weights must have shape {like.shape}, got {weights.shape}.")
    return weights


def _float(outputs) -> jax.Array:
    """Converts outputs to at least float32, so that sums do not round."""
    outputs = jnp.asarray(outputs)
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


def _given(examples: Examples, task: str) -> Any:
    if examples.targets is None:
        raise ValueError(f"batch must hold targets for {task}: a pair (inputs, targets).")
    return examples.targets


def _reader(inputs, targets, weights, of_inputs, of_targets=TARGETS, of_weights=WEIGHTS):
    """Makes read(batch) -> Examples, by position in a tuple or by name in a mapping."""

    def part(batch, argument, given, names, position):
        if callable(given):
            return given(batch)
        if isinstance(batch, Mapping):
            name = next((n for n in names if n in batch), None) if given is None else given
            if name is not None and name not in batch:
                raise ValueError(
                    f"{argument} must name a part of the batch, which has {sorted(batch)}; got "
                    f"{given!r}."
                )
            if name is None and position == 0:
                raise ValueError(
                    f"batch must have one of {', '.join(names)}, got {sorted(batch)}: say which "
                    "with inputs=."
                )
            return None if name is None else batch[name]
        if given is not None:
            raise ValueError(f"{argument} is the name {given!r}, but the batch is no mapping.")
        parts = batch if isinstance(batch, tuple | list) else (batch,)
        return parts[position] if position < len(parts) else None

    def read(batch):
        return Examples(
            part(batch, "inputs", inputs, of_inputs, 0),
            part(batch, "targets", targets, of_targets, 1),
            part(batch, "weights", weights, of_weights, 2),
        )

    return read
