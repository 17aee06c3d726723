"""A new user's own images: train on them, load the model, predict, export; as the pages say."""

import pathlib
import re

import numpy as np
import PIL.Image
import pytest

from experiments.__main__ import main
from flatjax import data, models

DOCS = pathlib.Path(__file__).parents[1] / "docs"
TINY = ["--epochs", "4", "--batch-size", "10", "--validation", "0", "--no-progress"]
TINY += ["--local-energy-samples", "2", "--local-energy-examples", "20", "--replicas", "2"]


def examples(page):
    """Blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)


def ship(draw, is_red):
    """A noisy image, red or blue."""
    colour = [200, 0, 0] if is_red else [0, 0, 200]
    return (draw.integers(50, size=(8, 6, 3)) + colour).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of images, and a run on it."""
    place = tmp_path_factory.mktemp("user")
    draw = np.random.default_rng(0)
    for name in ("blue", "red"):
        for number in range(40):
            path = place / "ships" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(ship(draw, name == "red")).save(path)
    PIL.Image.fromarray(ship(draw, True)).save(place / "ship.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLATJAX_CACHE_DIR", str(place / "cache"))
        name = f"folder,test=0.5:{place / 'ships'}"
        assert main(["train", "--dataset", name, "--out", str(place / "runs" / "X"), *TINY]) == 0
    return place


def test_a_network_learns_a_folder_and_predicts(place):
    predict, params, state = models.load(place / "runs" / "X")
    ships = data.from_folder(place / "ships", test=0.5, cache=False).test
    found = np.asarray(predict(params, state, ships.image)).argmax(-1)
    np.testing.assert_array_equal(found, ships.label)
    assert predict.class_names == ("blue", "red")


def test_the_examples_of_the_page_on_models_run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    namespace = {}
    blocks = examples("export")
    assert len(blocks) == 5
    for block in blocks[:2]:
        exec(block, namespace)
    assert capsys.readouterr().out.startswith("red ")
    # The page saves a network for CIFAR.
    saved = blocks[2].replace("small_convnet", "mlp").replace("(32, 32, 3)", "(8, 6, 3)")
    exec(saved.replace("=10", "=2"), namespace)
    assert models.load("my_model").predict.class_names == ("blue", "red")
    pytest.importorskip("flatbuffers")
    exec(blocks[3], namespace)
    assert capsys.readouterr().out.startswith("[[")
    pytest.importorskip("safetensors")
    exec(blocks[4], namespace)


@pytest.mark.slow
def test_the_examples_of_the_page_on_data_run(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLATJAX_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "flowers").symlink_to(place / "ships")
    folder, arrays, files = examples("your_data")[:3]
    namespace = {}
    exec(folder, namespace)
    assert namespace["flowers"].image_shape == (64, 64, 3)
    exec(arrays, namespace)
    exec(files, namespace)
    for one, other in zip(
        data.load("npy:digits_npy").train.arrays, data.load("digits").train.arrays, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    name = "npz:task.npz"
    assert main(["train", "--dataset", name, "--out", "run", *TINY]) == 0
    predict, params, state = models.load("run")
    test = data.load(name).test
    assert predict(params, state, test.image).shape == (len(test), 2)
