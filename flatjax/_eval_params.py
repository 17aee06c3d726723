"""Which weights of an optimizer state to evaluate and save; replacing them."""

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from flatjax._averaging import AverageParamsState
from flatjax._center import replica_center
from flatjax._couple_replicas import CoupleReplicasState
from flatjax._entropy_sgd import EntropySGDState
from flatjax._outer import OuterPullState
from flatjax._states import find_states

Which: TypeAlias = Literal["auto", "average", "anchor", "params"]

_Path: TypeAlias = tuple[str, ...]


def eval_params(
    state: optax.OptState,
    params: optax.Params,
    *,
    replica_axis: int | None = None,
    axis_name: str | None = None,
    which: Which = "auto",
) -> chex.ArrayTree:
    """Returns the parameters to evaluate and save.

    Training moves `params`, but the point to evaluate is often another one. By default, each weight
    is taken from the first of these that has it:

    1. the average that `average_params` keeps (SWA, EMA);
    2. the anchor of `entropy_sgd`, `esgd` or `parle`;
    3. `params`, as for SGD and Replicated-SGD.

    If `replica_axis` or `axis_name` is given, the result is the center of the replicas. Without
    them, the result keeps all replicas.

    The transformations may be at any depth of the state: in `optax.chain`, `optax.masked`,
    `optax.partition` (also more than one, for different weights), `optax.MultiSteps`,
    `optax.inject_hyperparams`, `optax.flatten`, `optax.contrib.split_real_and_imaginary` and
    `nnx.Optimizer` (pass its `opt_state` and `nnx.state(model, nnx.Param)`).

    Args:
      state: the optimizer state.
      params: the parameters under training.
      replica_axis: axis of the leaves along which replicas are stacked.
      axis_name: name of the vmap, pmap or mesh axis over which replicas are spread.
      which: `"auto"`, as above, or one of `"average"`, `"anchor"` and `"params"`.

    Returns:
      A pytree with the structure of `params`, without the replica axis if `replica_axis` is given.
      Averages are in at least float32; everything else has the dtypes of `params`.

    Raises:
      TypeError: `params` is an optimizer state.
      ValueError: the state holds no average (or anchor) although `which` asks for it, or more than
        one for the same weights; it belongs to other parameters; or `which` is unknown.

    Examples:
      >>> import jax.numpy as jnp, optax, flatjax
      >>> params = {"w": jnp.ones(2)}
      >>> tx = flatjax.esgd(0.1, gamma=0.01)
      >>> flatjax.eval_params(tx.init(params), params)  # the anchor
      {'w': Array([1., 1.], dtype=float32)}

      Replicated-SGD on stacked replicas:

      >>> replicas = {"w": jnp.array([[0.0, 1.0], [2.0, 5.0]])}
      >>> tx = flatjax.replicated_sgd(0.1, gamma=0.01, replica_axis=0)
      >>> flatjax.eval_params(tx.init(replicas), replicas, replica_axis=0)  # the center
      {'w': Array([1., 3.], dtype=float32)}

    See Also:
      `set_params` (the other direction), `replica_center` (without an optimizer state),
      `batch_stats.reestimate` (batch norm for the result).
    """
    if which not in get_args(Which):
        raise ValueError(f"which must be one of {get_args(Which)}, got {which!r}.")
    _check_order("eval_params", params)
    points = params
    if which in ("auto", "anchor"):
        anchors = [found.anchor for found in find_states(state, EntropySGDState)]
        points = _overlay("anchor", anchors, points, params, is_required=which == "anchor")
    if which in ("auto", "average"):
        averages = [found.average for found in find_states(state, AverageParamsState)]
        points = _overlay("average", averages, points, params, is_required=which == "average")
    if replica_axis is None and axis_name is None:
        return points
    return replica_center(points, axis_name=axis_name, replica_axis=replica_axis)


def set_params(state: optax.OptState, params: optax.Params) -> optax.OptState:
    """Replaces the parameters in an optimizer state by new ones.

    `entropy_sgd` keeps an anchor and returns to it, and `average_params` keeps an average. If you
    replace the parameters after `init` (by pretrained weights, by their center, by a projection),
    replace them in the state too. Otherwise training returns to the old ones, or mixes them in.

    Counts, schedules and momenta do not change. Wrapped transformations are found in the same
    places as by `eval_params`. Of optax's own states, those of `contrib.sam` and
    `contrib.schedule_free` are replaced, too. Other states that hold weights, such as those of
    `contrib.madgrad`, do not change: make them anew by `init`.

    Args:
      state: the optimizer state.
      params: the new parameters, with the structure and the shapes of the old ones.

    Returns:
      The new state. Its anchors, means, averages and centers are the new parameters, and the
      delayed force of `couple_replicas` (or displacement of `pull_to_center`) is 0.

    Raises:
      TypeError: `params` is an optimizer state.
      ValueError: the state belongs to other parameters.

    Examples:
      >>> import jax.numpy as jnp, flatjax
      >>> tx = flatjax.esgd(0.1, gamma=0.01)
      >>> state = tx.init({"w": jnp.zeros(2)})
      >>> pretrained = {"w": jnp.ones(2)}
      >>> state = flatjax.set_params(state, pretrained)
      >>> flatjax.eval_params(state, pretrained)
      {'w': Array([1., 1.], dtype=float32)}

    See Also:
      `eval_params` (the other direction).
    """
    _check_order("set_params", params)

    def replace(node):
        if isinstance(node, EntropySGDState):
            return node._replace(
                anchor=_like("anchor", node.anchor, params),
                mean=_like("anchor", node.mean, params),
                inner_state=set_params(node.inner_state, params),
                outer_state=set_params(node.outer_state, params),
            )
        if isinstance(node, AverageParamsState):
            return node._replace(average=_like("average", node.average, params))
        if isinstance(node, CoupleReplicasState):
            return node._replace(pending=jax.tree.map(jnp.zeros_like, node.pending))
        if isinstance(node, OuterPullState):
            return _restart(node, params)
        if isinstance(node, optax.contrib.SAMState):
            inner = set_params(node.opt_state, params)
            return node._replace(cache=_like("cache", node.cache, params), opt_state=inner)
        if isinstance(node, optax.contrib.ScheduleFreeState):
            base = set_params(node.base_optimizer_state, params)
            return node._replace(z=_like("z", node.z, params), base_optimizer_state=base)
        return node

    kinds = (
        EntropySGDState,
        AverageParamsState,
        CoupleReplicasState,
        OuterPullState,
        optax.contrib.SAMState,
        optax.contrib.ScheduleFreeState,
    )
    return jax.tree.map(replace, state, is_leaf=lambda node: isinstance(node, kinds))


def _check_order(caller: str, params: Any) -> None:
    """Raises if an optimizer state is given as the parameters."""
    found = next(filter(_is_state, jax.tree.leaves(params, is_leaf=_is_state)), None)
    if found is not None:
        raise TypeError(
            f"params must be the parameters, got an optimizer state, {type(found).__name__}: call "
            f"{caller}(state, params)."
        )


def _is_state(node):
    kind = type(node)
    is_known = kind.__module__.split(".")[0] in ("optax", "flatjax")
    return isinstance(node, tuple) and is_known and kind.__name__.endswith("State")


def _restart(state, params):
    """Returns the state of an outer optimizer with the center of the new parameters."""
    found = {_path(path): leaf for path, leaf in _flatten(params)}

    def center(path, theta):
        new = found.get(_path(path))
        if new is None:
            raise _mismatch("center", f"params lack {_show(_path(path))}")
        new = jnp.asarray(new)
        # Stacked replicas share one center, whose replica axis has size 1.
        sizes = zip(new.shape, theta.shape, strict=new.ndim == theta.ndim)
        axes = tuple(i for i, (size, own) in enumerate(sizes) if size != own)
        mean = jnp.mean(new.astype(theta.dtype), axis=axes, keepdims=True)
        if mean.shape != theta.shape or len(axes) > 1:
            shapes = f"{theta.shape} in the state, {new.shape} in params"
            raise _mismatch("center", f"{_show(_path(path))} has shape {shapes}")
        return jnp.array(mean, copy=True)

    return state._replace(
        center=jax.tree_util.tree_map_with_path(center, state.center),
        pending=jax.tree.map(jnp.zeros_like, state.pending),
        is_shared=jax.tree.map(jnp.zeros_like, state.is_shared),
    )


def _overlay(name, trees, points, params, *, is_required):
    """Returns `points`, with leaves replaced by those that the trees of a state hold."""
    if is_required and not trees:
        raise ValueError(f"state must hold an {name}, found none.")
    leaves, treedef = jax.tree.flatten(points)
    replaced = [False] * len(leaves)
    for tree in trees:
        for position, leaf in _matched(name, tree, params):
            if replaced[position]:
                raise ValueError(f"state must hold one {name} of each weight, found more than one.")
            leaves[position], replaced[position] = leaf, True
    return jax.tree.unflatten(treedef, leaves)


def _matched(name: str, tree: Any, params: optax.Params) -> Iterator[tuple[int, jax.Array]]:
    """Yields a tree's leaves, each with the position of its weight in params.

    Leaves are matched by path, because the containers may differ: a state of `nnx.Optimizer` holds
    variables of another type, and `optax.masked` replaces a whole subtree by one node.
    """
    if _is_flattened(tree, params):
        tree = ravel_pytree(params)[1](tree)
    found = {_path(path): leaf for path, leaf in _flatten(tree)}
    masked = {path for path, leaf in found.items() if isinstance(leaf, optax.MaskedNode)}
    expected = [(_path(path), leaf) for path, leaf in _flatten(params)]
    for position, (path, param) in enumerate(expected):
        if any(path[:length] in masked for length in range(len(path) + 1)):
            continue
        leaf = found.pop(path, None)
        if leaf is None:
            raise _mismatch(name, f"the state has none for params{_show(path)}")
        if jnp.shape(leaf) != jnp.shape(param):
            shapes = f"{jnp.shape(leaf)} in the state, {jnp.shape(param)} in params"
            raise _mismatch(name, f"{_show(path)} has shape {shapes}")
        yield position, leaf
    if unknown := [path for path in found if path not in masked]:
        raise _mismatch(name, f"the state has one of {_show(unknown[0])}, which params lack")


def _like(name: str, tree: Any, params: optax.Params) -> Any:
    """Copies the parameters into a state's tree, because they may be donated."""
    if _is_flattened(tree, params):
        return ravel_pytree(params)[0].astype(tree.dtype)
    for _ in _matched(name, tree, params):
        pass  # _matched raises if the two do not fit
    found = {_path(path): leaf for path, leaf in _flatten(params)}

    def take(path, leaf):
        if isinstance(leaf, optax.MaskedNode):
            return leaf
        new = jnp.asarray(found[_path(path)])
        if _is_pair(leaf):
            return leaf._replace(real=new.real, imaginary=new.imag)
        return jnp.array(new, leaf.dtype, copy=True)

    return jax.tree_util.tree_map_with_path(take, tree, is_leaf=_is_leaf)


def _mismatch(name: str, how: str) -> ValueError:
    return ValueError(
        f"params must match the {name} in the state: {how}. For an nnx.Optimizer, pass "
        "opt_state and nnx.state(model, nnx.Param)."
    )


def _flatten(tree):
    """Returns paths and leaves (also masked nodes and pairs of complex parts)."""
    flat = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_leaf)
    join = lambda leaf: jax.lax.complex(*leaf) if _is_pair(leaf) else leaf
    return [(path, join(leaf)) for path, leaf in flat]


def _is_leaf(node):
    return isinstance(node, optax.MaskedNode) or _is_pair(node)


def _is_pair(node):
    """Whether it is a complex number of `optax.contrib.split_real_and_imaginary`."""
    return getattr(node, "_fields", None) == ("real", "imaginary")


def _path(path) -> _Path:
    """The names along a path, for any type of container."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _show(path: _Path) -> str:
    return "".join(f"[{name}]" for name in path)


def _is_flattened(tree, params) -> bool:
    """Whether `optax.flatten` has made one vector of all parameters."""
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    shapes = lambda tree: [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    return shapes(tree) == [(size,)] and shapes(params) != [(size,)]
