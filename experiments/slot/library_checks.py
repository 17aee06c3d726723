"""Checks of transformations, networks and measures on the present device.

`python -m experiments.slot.library_checks` writes `reference.json`, the values of a CPU with which
a device is compared.
"""

import pathlib
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flatjax
from experiments.report import store
from flatjax import _cpu, flatness, models

REFERENCE = pathlib.Path(__file__).with_name("reference.json")

# --- transformations ----------------------------------------------------------------------------


def contract() -> dict[str, Any]:
    """Each transformation converges, keeps types and shapes, compiles once."""
    found = {}
    for name, tx in _transformations().items():
        for dtype in (jnp.float32, jnp.bfloat16):
            params = {"w": jnp.linspace(1.0, 2.0, 6, dtype=dtype).reshape(2, 3)}
            state = tx.init(params)
            loss = lambda p: jnp.sum(p["w"].astype(jnp.float32) ** 2)

            @jax.jit
            def step(params, state, tx=tx, loss=loss):
                value, grads = jax.value_and_grad(loss)(params)
                updates, state = tx.update(grads, state, params, value=value, unknown=0)
                return optax.apply_updates(params, updates), state

            first, now = float(loss(params)), params
            like = jax.tree.map(jnp.copy, state)
            for _ in range(30):
                now, state = step(now, state)
            chex.assert_trees_all_equal_shapes_and_dtypes(now, params)
            chex.assert_trees_all_equal_shapes_and_dtypes(state, like)
            assert step._cache_size() == 1, f"{name} was compiled {step._cache_size()} times"
            last = float(loss(flatjax.eval_params(state, now)))
            assert last < 0.5 * first, f"{name}: the loss went from {first} to {last}"
            found[f"{name}, {jnp.dtype(dtype).name}"] = last / first
    return found


def _transformations() -> dict[str, optax.GradientTransformationExtraArgs]:
    stacked: dict[str, Any] = {"gamma": 0.1, "replica_axis": 0}
    key = jax.random.key(1)
    made = {
        "replicated_sgd": flatjax.replicated_sgd(0.05, **stacked),
        "replicated_sgd, force": flatjax.replicated_sgd(0.05, **stacked, decoupled=False),
        "esgd": flatjax.esgd(0.05, 0.1, key=key),
        "parle": flatjax.parle(0.05, 0.1, 0.1, key=key, replica_axis=0),
        "sam": flatjax.sam(optax.sgd(0.05), 0.05, replica_axis=0),
        "average_params": optax.chain(optax.sgd(0.05), flatjax.average_params(decay=0.5)),
    }
    return {name: optax.with_extra_args_support(tx) for name, tx in made.items()}


# --- networks -----------------------------------------------------------------------------------


def _network(model: str = "small_convnet", **options: Any) -> tuple[Any, Any, Any, Any]:
    """A network, weights, images and labels, the same on every machine."""
    module = models.create(model, 10, **options)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(32, 8, 8, 1)).astype(np.float32))
    labels = jnp.asarray(rng.integers(0, 10, 32), jnp.int32)
    shapes = jax.eval_shape(lambda key: module.init(key, images, train=False), jax.random.key(0))
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape).astype(np.float32)) * 0.3
    return module, jax.tree.map(draw, shapes["params"]), images, labels


def placements() -> dict[str, float]:
    """Gradients agree: vmapped, unrolled, automatic, on a mesh of one device."""
    module, params, images, labels = _network()
    scales = jnp.array([1.0, 0.9, 1.1])
    stack = jax.tree.map(lambda leaf: jnp.einsum("a,...->a...", scales, leaf), params)

    def loss(params):
        logits = module.apply({"params": params}, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    mesh = flatjax.replica_mesh(3, jax.devices()[:1])
    options: dict[str, dict[str, Any]] = {
        "unroll": {"placement": "unroll"},
        "vmap": {"placement": "vmap"},
        "auto": {},
        "mesh": {"placement": "mesh", "mesh": mesh},
    }
    found = {
        name: jax.jit(flatjax.map_replicas(jax.grad(loss), **own))(stack)
        for name, own in options.items()
    }
    return {name: _check_close(own, found["unroll"], 1e-4) for name, own in found.items()}


def _check_close(found, expected, tolerance) -> float:
    """The largest difference, in units of the largest number of each leaf."""
    worst = 0.0
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        worst = max(worst, float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-12)))
    assert worst < tolerance, f"values differ by {worst:.2g} of the largest one"
    return worst


def lowerings() -> dict[str, Any]:
    """Programs for the device hold the operations that are fast there.

    Elsewhere than on a CPU, normal numbers are JAX's own.

    On a GPU a convolution of few channels is a product of patches.
    """
    key, images, kernel = jax.random.key(0), jnp.ones((2, 6, 6, 2)), jnp.ones((3, 3, 2, 3))
    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    ours = lambda x, k: _cpu.conv_general_dilated(x, k, (1, 1), "SAME", **layout)
    theirs = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", **layout)
    total = lambda fn: jax.grad(lambda x, k: jnp.sum(jnp.sin(fn(x, k))), argnums=(0, 1))
    text = lambda fn, *args: jax.jit(fn).lower(*args).as_text()
    count = lambda shown: shown.count("stablehlo.convolution(")
    convolutions = [count(text(total(fn), images, kernel)) for fn in (ours, theirs)]
    rounds = [
        text(draw, key).count("stablehlo.xor")
        for draw in (lambda key: _cpu.normal(key, 9), lambda key: jax.random.normal(key, (9,)))
    ]
    if jax.default_backend() != "cpu":
        expected = 0 if jax.default_backend() == "gpu" else convolutions[1]
        assert convolutions[0] == expected, convolutions
        assert rounds[0] == rounds[1], rounds
    np.testing.assert_allclose(
        jax.jit(lambda key: _cpu.normal(key, 999))(key),
        jax.random.normal(key, (999,)),
        rtol=1e-5,
        atol=1e-6,
    )
    return {"convolutions, ours and JAX's": convolutions, "rounds, ours and JAX's": rounds}


# --- measures, next to the values of a CPU ------------------------------------------------------


def measured() -> dict[str, list[float]]:
    """Local energy and Hessian of two fixed networks."""
    found = {}
    for name, options in (("mlp", {"hidden": (8,)}), ("small_convnet", {"features": (4, 8)})):
        module, params, images, labels = _network(name, **options)
        batch = {"image": images, "label": labels}

        def loss(params, batch, module=module):
            logits = module.apply({"params": params}, batch["image"], train=False)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

        def sums(params, batch, module=module, loss=loss):
            logits = module.apply({"params": params}, batch["image"], train=False)
            error = jnp.sum(logits.argmax(-1) != batch["label"])
            count = len(batch["label"])
            return {"loss": count * loss(params, batch), "error": error, "count": count}

        measure = flatness.local_energy(jax.jit(sums), sigmas=(0.1, 0.3), num_samples=8)
        energy = measure(params, [batch], jax.random.key(0))
        found[f"{name}, local energy of the loss"] = energy.mean["loss"].tolist()
        hessian = flatness.hessian_operator(jax.jit(sums))
        top = flatness.top_eigenvalues(hessian, num=2, num_matvecs=12)
        found[f"{name}, eigenvalues"] = top(params, [batch], jax.random.key(1)).values.tolist()
    return found


def reference_values() -> dict[str, float]:
    """Local energy and Hessian are those of a CPU, to 1%."""
    found, expected = measured(), store.read_json(REFERENCE)["found"]
    return {name: _check_close(found[name], expected[name], 0.01) for name in expected}


if __name__ == "__main__":  # writes the values to compare with; on a CPU
    with jax.default_matmul_precision("highest"):
        store.write_json(REFERENCE, {"device": jax.default_backend(), "found": measured()})
