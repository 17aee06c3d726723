"""Where a network with batch norm computes in half precision."""

import jax


def assert_only_layers_are_half(model, images):
    """Layers compute in bfloat16; weights, statistics and logits are float32."""

    def init_and_train(key):
        variables = model.init(key, images, train=False)
        out, state = model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
            rngs={"dropout": key},
        )
        return variables, state["batch_stats"], out, state["intermediates"]

    *wide, layers = jax.eval_shape(init_and_train, jax.random.key(0))
    dtypes = lambda tree: {leaf.dtype.name for leaf in jax.tree.leaves(tree)}
    del layers["__call__"]  # the logits
    assert dtypes(layers) == {"bfloat16"}
    assert dtypes(wide) == {"float32"}
