"""Trained models on disk: what is saved is loaded, bit for bit, and nothing else."""

import functools
import json
import pathlib

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from flatjax import models
from flatjax.data import Normalization

SHAPE = (4, 3, 2)
IMAGES = np.random.default_rng(0).integers(256, size=(5, *SHAPE), dtype=np.uint8)
NORMALIZATION = Normalization(mean=(0.2, 0.3), std=(0.5, 0.25))
FOREIGN = f"{__name__}:Normed"


class Normed(nn.Module):
    """A network of the user's own, with batch norm and an argument that flax calls so."""

    num_classes: int
    width: int = 4

    @nn.compact
    def __call__(self, images, use_running_average):
        """Logits."""
        hidden = nn.Dense(self.width, param_dtype=jnp.bfloat16)(images.reshape(len(images), -1))
        hidden = nn.BatchNorm(use_running_average)(hidden)
        return nn.Dense(self.num_classes)(hidden)


def variables_of(module, **mode):
    """Variables that no initialisation draws."""
    init = functools.partial(module.init, **mode)
    leaves = jax.eval_shape(init, jax.random.key(0), np.zeros((1, *SHAPE), np.float32))
    draw = np.random.default_rng(0).uniform
    return jax.tree.map(lambda leaf: draw(0.1, 1, leaf.shape).astype(leaf.dtype), leaves)


MLP = variables_of(models.MLP(hidden=(6,), num_classes=3), train=False)
NORMED = variables_of(Normed(3, width=5), use_running_average=True)
OF_MLP = {"model": "mlp", "options": ["hidden=(6,)"], "num_classes": 3, "image_shape": SHAPE}
OF_NORMED = OF_MLP | {"model": FOREIGN, "options": ["width=5"]}


def save_mlp(folder, **options):
    models.save(folder, MLP["params"], **OF_MLP, normalization=NORMALIZATION, **options)
    return folder


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_model_of_flatjax(tmp_path):
    save_mlp(tmp_path, class_names=["a", "b", "c"], about={"seed": 3})
    predict, params, state = models.load(tmp_path)
    assert_same(params, MLP["params"])
    assert state == {}
    expected = models.MLP(hidden=(6,), num_classes=3).apply(
        MLP, (IMAGES / 255 - [0.2, 0.3]) / [0.5, 0.25], train=False
    )
    np.testing.assert_allclose(predict(params, state, IMAGES), expected, rtol=1e-5)
    assert predict.class_names == ("a", "b", "c")
    assert (predict.about, predict.num_classes, predict.image_shape) == ({"seed": 3}, 3, SHAPE)


def test_predictions_are_pure_functions(tmp_path):
    predict, params, state = models.load(save_mlp(tmp_path))
    expected = predict(params, state, IMAGES)
    np.testing.assert_allclose(jax.jit(predict)(params, state, IMAGES), expected, rtol=1e-5)
    pair = jax.tree.map(lambda leaf: jnp.stack([leaf, 0 * leaf]), params)
    both = jax.vmap(predict, (0, None, None))(pair, state, IMAGES)
    np.testing.assert_allclose(both, [expected, 0 * expected], rtol=1e-5)


def test_a_module_of_the_user_with_statistics_and_half_precision(tmp_path):
    state = {"batch_stats": NORMED["batch_stats"]}
    models.save(tmp_path, NORMED["params"], state, **OF_NORMED)
    predict, params, found = models.load(tmp_path, trust=True)
    assert_same(params, NORMED["params"])
    assert_same(found, state)
    assert params["Dense_0"]["kernel"].dtype == jnp.bfloat16
    images = jnp.asarray(IMAGES, jnp.float32)
    expected = Normed(3, width=5).apply(NORMED, images, use_running_average=True)
    np.testing.assert_array_equal(predict(params, found, images), expected)


def test_a_module_that_is_not_trusted_is_not_imported(tmp_path, monkeypatch):
    module = tmp_path / "someones_network.py"
    module.write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    save_mlp(tmp_path / "model")
    change(tmp_path / "model", model="someones_network:Net")
    with pytest.raises(ValueError, match=r"someones_network\.py\) would be imported.*trust=True"):
        models.load(tmp_path / "model")
    with pytest.raises(SystemExit, match="imported"):
        models.load(tmp_path / "model", trust=True)


def test_the_directory_of_a_run_is_taken_for_its_model(tmp_path):
    save_mlp(tmp_path / "model")
    assert_same(models.load(str(tmp_path)).params, MLP["params"])
    with pytest.raises(FileNotFoundError, match=r"holds no model \(model\.json\)"):
        models.load(tmp_path / "nothing")


def test_a_model_is_replaced(tmp_path):
    save_mlp(tmp_path)
    other = jax.tree.map(lambda leaf: 2 * leaf, MLP["params"])
    models.save(tmp_path, other, **OF_MLP)
    assert_same(models.load(tmp_path).params, other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arrays.npz", "model.json"]


# What is refused


def change(folder, **fields):
    """Changes the description, with a digest that fits."""
    from flatjax.models._saved import _digest

    path = pathlib.Path(folder, "model.json")
    description = json.loads(path.read_text(encoding="utf-8")) | fields
    del description["digest"]
    path.write_text(json.dumps(description | {"digest": _digest(description)}), encoding="utf-8")


def same_json(one, other):
    """Whether only white space differs."""
    try:
        return json.loads(one.decode()) == json.loads(other.decode())
    except ValueError:
        return False


def test_every_flipped_bit_is_detected(tmp_path):
    save_mlp(tmp_path)
    draw = np.random.default_rng(0)
    for name in ("model.json", "arrays.npz"):
        path = tmp_path / name
        good = path.read_bytes()
        for _ in range(25):
            bad = bytearray(good)
            bad[draw.integers(len(good))] ^= 1 << draw.integers(8)
            path.write_bytes(bad)
            if name == "model.json" and same_json(bad, good):
                assert_same(models.load(tmp_path).params, MLP["params"])
            else:
                with pytest.raises(ValueError, match=name):
                    models.load(tmp_path)
        path.write_bytes(good)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"digest": 1}'])
def test_files_that_are_no_description_are_named(tmp_path, content):
    save_mlp(tmp_path)
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.json is damaged"):
        models.load(tmp_path)


def test_the_arrays_of_another_model_are_refused(tmp_path):
    save_mlp(tmp_path / "one")
    models.save(tmp_path / "two", jax.tree.map(jnp.zeros_like, MLP["params"]), **OF_MLP)
    (tmp_path / "two" / "arrays.npz").replace(tmp_path / "one" / "arrays.npz")
    with pytest.raises(ValueError, match=r"one/arrays\.npz is damaged or does not fit model\.json"):
        models.load(tmp_path / "one")
    with pytest.raises(FileNotFoundError, match=r"two/arrays\.npz: there is no such file"):
        models.load(tmp_path / "two")


def test_a_newer_format_is_refused(tmp_path):
    change(save_mlp(tmp_path), format=2)
    with pytest.raises(ValueError, match=r"model\.json has the format 2"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": []}, r"params/Dense_0/bias expected shape \(256,\), got shape \(6,\)"),
        ({"num_classes": 4}, r"params/Dense_1/bias expected shape \(4,\), got shape \(3,\)"),
        ({"options": ["hidden=(6,6)"]}, "params/Dense_1/bias expected .*6"),
        ({"options": ["hidden=()"]}, "params/Dense_0/bias expected"),
    ],
    ids=str,
)
def test_arrays_must_be_those_of_the_network(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        models.save(tmp_path / "model", MLP["params"], **OF_MLP | options)
    assert not (tmp_path / "model").exists()
    change(save_mlp(tmp_path), **options)
    with pytest.raises(ValueError, match=f"arrays.npz must hold .*{message}"):
        models.load(tmp_path)


def test_each_class_has_a_name_or_none_has(tmp_path):
    with pytest.raises(ValueError, match="class_names must be 3, one for each class, got 2"):
        save_mlp(tmp_path / "model", class_names=["a", "b"])
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (IMAGES[0], ValueError, r"images must have shape \(B, \*\(4, 3, 2\)\), got \(4, 3, 2\)"),
        (IMAGES[:, :3], ValueError, "images must have shape"),
        (IMAGES.astype(np.float32), TypeError, "images must be uint8"),
    ],
)
def test_other_images_are_refused(tmp_path, images, error, message):
    predict, params, state = models.load(save_mlp(tmp_path))
    with pytest.raises(error, match=message):
        predict(params, state, images)


# What others read


@pytest.mark.parametrize("name", ["mlp", "small_convnet", "vit", "resnet18"])
def test_models_are_exported_for_any_batch_and_platform(name):
    options = {"vit": {"patch_size": 4, "width": 8, "depth": 1, "heads": 1}}.get(name, {})
    network = models.create(name, 3, **options)
    shape = (8, 8, 3)
    init = lambda: network.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)
    variables = jax.eval_shape(init)
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    apply = jax.jit(lambda variables, images: network.apply(variables, images, train=False))
    exported = jax.export.export(apply, platforms=("cpu", "cuda", "tpu"))(variables, images)
    assert str(exported.out_avals[0].shape) == "(b, 3)"
