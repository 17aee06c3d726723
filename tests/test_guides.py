"""Guides for other libraries: their programs run and learn, and their diffs are short."""

import contextlib
import difflib
import functools
import io
import pathlib
import re

import jax
import numpy as np
import pytest
from devices import devices
from fast import slow
from safetensors.numpy import save_file

import flatjax

GUIDES = pathlib.Path(__file__).parents[1] / "docs" / "guides"
DIFFS = [("nnx", "rsgd"), ("nnx", "esgd"), ("linen", "rsgd"), ("linen", "esgd")]


def changes(old, new):
    """Lines by which one program becomes another, as a page shows them."""
    lines = [(GUIDES / name).read_text().splitlines() for name in (old, new)]
    found = list(difflib.unified_diff(*lines, n=0, lineterm=""))[2:]
    return "\n".join("" if line.startswith("@@") else line for line in found).strip()


@pytest.mark.parametrize(("library", "algorithm"), DIFFS)
def test_an_example_of_flax_needs_ten_more_lines_at_most(library, algorithm):
    found = changes(f"{library}_sgd.py", f"{library}_{algorithm}.py")
    assert sum(line.startswith("+") and line.strip() != "+" for line in found.splitlines()) <= 10
    assert f"```diff\n{found}\n```" in (GUIDES / f"{library}.md").read_text()


def test_the_page_shows_the_program_on_a_mesh():
    found = changes("nnx_rsgd.py", "nnx_mesh.py")
    assert f"```diff\n{found}\n```" in (GUIDES / "nnx.md").read_text()


def run(program):
    """Runs a program; returns its names."""
    namespace = {}
    exec(program, namespace)
    return namespace


def blocks(page):
    """Programs of a page."""
    return re.findall(r"```python\n(.*?)```", (GUIDES / f"{page}.md").read_text(), re.DOTALL)


def accuracies(text):
    return [float(found) for found in re.findall(r"test accuracy (\S+)", text)]


# Those of plain SGD, which hold nothing of flatjax, for fewer steps.
SHORTER = {
    "nnx_sgd": ("learning_rate = 200", "learning_rate = 100"),
    "linen_sgd": ("learning_rate = 25", "learning_rate = 8"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHORTER, "nnx_rsgd", "nnx_esgd", "linen_rsgd", "linen_esgd"])
def test_programs_learn_and_are_measured(name, capsys):
    program = (GUIDES / f"{name}.py").read_text()
    if name == "nnx_rsgd":
        program += blocks("nnx")[0]
    if name in SHORTER:
        assert program.count(SHORTER[name][0]) == 1
        program = program.replace(*SHORTER[name])
    namespace = run(program)
    assert accuracies(capsys.readouterr().out)[-1] > 0.88
    if name == "nnx_rsgd":
        assert namespace["found"].reference["error"] < 0.02
        assert np.isfinite(namespace["found"]["sam_sharpness"].value)


@functools.cache
def on_mesh(number):
    """Parameters and statistics of the network of a few steps on so many devices."""
    make = functools.partial(flatjax.replica_mesh, devices=jax.devices()[:number])
    program = (GUIDES / "nnx_mesh.py").read_text()
    for old, new in {
        "learning_rate = 200": "learning_rate = 10",
        "step % 100": "step % 10",
    }.items():
        assert program.count(old) == 1
        program = program.replace(old, new)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(flatjax, "replica_mesh", make)
        namespace = run(program)
    assert namespace["mesh"].size == number
    nnx = namespace["nnx"]
    return jax.tree.leaves(nnx.state(namespace["trained"], (nnx.Param, nnx.BatchStat)))


@pytest.mark.slow
@pytest.mark.claim("docs/guides/nnx.md", "The result is the same, up to rounding")
def test_the_same_program_on_a_mesh_of_devices():
    number = 6  # a mesh of replicas and data
    devices(number)
    for one, other in zip(on_mesh(1), on_mesh(number), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["equinox", "haiku"])
def test_programs_of_other_libraries_learn(page, capsys):
    (program,) = blocks(page)
    found = run(program)["found"]
    assert found.has_met
    assert found.center < 0.1
    shown = capsys.readouterr().out
    assert "of the replicas" in shown
    assert "SAM" in shown


# --- a PyTorch checkpoint -------------------------------------------------------------------------


def state_dict(draw):
    """Arrays with the names and layouts of the network of the page."""
    return {
        name: np.float32(array)
        for name, array in {
            "0.weight": draw.normal(size=(8, 1, 3, 3)),
            "0.bias": draw.normal(size=8),
            "1.weight": draw.normal(size=8),
            "1.bias": draw.normal(size=8),
            "1.running_mean": draw.normal(size=8),
            "1.running_var": draw.uniform(0.5, 2, size=8),
            "5.weight": draw.normal(size=(10, 128)),
            "5.bias": draw.normal(size=10),
        }.items()
    }


def by_loops(saved, image):
    """Logits of an image (channels, height, width), as PyTorch documents its layers."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    maps = np.zeros((8, 8, 8))
    for channel in range(8):
        for i in range(8):
            for j in range(8):
                window = padded[:, i : i + 3, j : j + 3]
                maps[channel, i, j] = np.sum(saved["0.weight"][channel] * window)
        maps[channel] += saved["0.bias"][channel]
        scale = saved["1.weight"][channel] / np.sqrt(saved["1.running_var"][channel] + 1e-5)
        maps[channel] = (maps[channel] - saved["1.running_mean"][channel]) * scale
        maps[channel] = np.maximum(maps[channel] + saved["1.bias"][channel], 0)
    pooled = maps.reshape(8, 4, 2, 4, 2).max(axis=(2, 4))
    return saved["5.weight"] @ pooled.reshape(-1) + saved["5.bias"]


@pytest.mark.parametrize("is_measured", [False, slow(True)])
def test_a_checkpoint_of_pytorch_is_read_and_measured(is_measured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    saved, images = state_dict(draw), np.float32(draw.uniform(size=(2, 1, 8, 8)))
    save_file(saved, "network.safetensors")
    logits = np.stack([by_loops(saved, image) for image in images])
    np.savez("probe.npz", images=images, logits=logits)
    _, convert, measure = blocks("pytorch")
    namespace = run(convert + is_measured * measure)  # compares logits
    if is_measured:
        assert namespace["found"].num_examples == 1000


def test_pytorch_gives_the_same_logits(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    save, convert, _ = blocks("pytorch")
    run(save)
    run(convert)  # compares
