"""What the pages promise: tests they name exist, examples run."""

import collections
import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import devices
from flax import linen
from pages import rows_below

import flatjax
import flatjax.flatness
from experiments.__main__ import main
from experiments.engine import processes

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {page.stem: page.read_text() for page in (ROOT / "docs").glob("*.md")}


def test_named_tests_exist():
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    found = 0
    for text in PAGES.values():
        for file, name in re.findall(r"(tests/test_\w+\.py)::(test_\w+)", text):
            assert f"def {name}(" in (ROOT / file).read_text(), name
        for name in re.findall(r"[`:](test_\w+)`", text):
            assert f"def {name}(" in tests, name
            found += 1
    assert found > 20


def examples(page):
    """Blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)


# The blocks of Python that tests execute: those of README in `test_readme`, of guides in
# `test_guides`, of export and your_data also in `test_your_data`, all others here.
EXECUTED = {
    "README": 3,
    "cheat_sheet": 11,
    "choosing": 1,
    "diloco": 2,
    "distributed": 1,
    "equinox": 1,
    "export": 5,
    "faq": 3,
    "finetuning": 1,
    "flatness": 1,
    "haiku": 1,
    "how_flat": 1,
    "how_singular": 3,
    "index": 1,
    "merging": 2,
    "nnx": 1,
    "optax": 1,
    "pytorch": 3,
    "quickstart": 4,
    "relations": 1,
    "your_data": 6,
}


def test_every_block_of_python_is_executed():
    """A new block needs a test, which is then counted above."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    blocks = [page.stem for page in pages for _ in range(page.read_text().count("```python\n"))]
    assert collections.Counter(blocks) == EXECUTED


def test_the_program_of_the_first_page_finds_the_weights(capsys):
    exec(examples("index")[0], {})
    assert capsys.readouterr().out == "[ 1. -2.]\n"


@pytest.mark.slow
@pytest.mark.claim("docs/quickstart.md", "again below 0.09")
def test_the_programs_of_the_quickstart_run_and_learn(capsys):
    namespace = {}
    for program in examples("quickstart"):
        exec(program, namespace)
    printed = capsys.readouterr().out
    errors = [float(error) for error in re.findall(r"test error (\S+)", printed)]
    assert len(errors) == 2
    assert max(errors) < 0.09
    assert namespace["found"].mean["error"].shape == (2,)
    assert "Entropy-SGD" in printed


@pytest.mark.parametrize("page", ["choosing", "relations"])
def test_short_programs_make_optimizers(page):
    namespace = {}
    exec(examples(page)[0], namespace)
    assert isinstance(namespace["tx"], optax.GradientTransformationExtraArgs)


@pytest.mark.slow
@pytest.mark.claim("docs/optax.md", "It prints the shape of the updates three times")
def test_the_pipelines_of_optax_are_in_order(capsys):
    exec(examples("optax")[0], {})
    assert capsys.readouterr().out == 3 * "{'w': (3, 5, 3)}\n"


@pytest.mark.slow
@pytest.mark.claim("docs/flatness.md", "for two strengths of the noise")
def test_the_example_of_measures_prints_the_table_of_the_page(capsys):
    exec(examples("flatness")[0], {})
    shown = capsys.readouterr().out.splitlines()
    (block,) = re.findall(r"```text\n(.*?)```", PAGES["flatness"], re.DOTALL)
    expected = block.splitlines()
    assert [shown[line] for line in (0, 2, 3)] == [expected[line] for line in (0, 2, 3)]
    for one, other in zip(shown[5:], expected[5:], strict=True):
        rises = [[float(line.split()[at]) for at in (0, 1, 4)] for line in (one, other)]
        np.testing.assert_allclose(*rises, rtol=0.3)


class Normalized(linen.Module):
    """A network with batch norm."""

    @linen.compact
    def __call__(self, x, train):
        """Returns two outputs."""
        return linen.BatchNorm(use_running_average=not train)(linen.Dense(2)(x))


@pytest.mark.slow
def test_the_statistics_and_the_anchor_of_the_faq():
    statistics, anchor, _ = examples("faq")
    model, x = Normalized(), jax.random.normal(jax.random.key(0), (50, 3))
    init_fn = lambda key: model.init(key, x, train=False)["params"]
    replicas = flatjax.stack_replicas(init_fn, jax.random.split(jax.random.key(1), 3))
    namespace = {"jax": jax, "flatjax": flatjax, "model": model, "replicas": replicas}
    namespace["train_batches"] = [{"image": x}]
    namespace["any_stats"] = model.init(jax.random.key(2), x, train=False)["batch_stats"]
    exec(statistics, namespace)
    center, stats = namespace["center"], namespace["stats"]
    outputs = x @ center["Dense_0"]["kernel"] + center["Dense_0"]["bias"]
    np.testing.assert_allclose(stats["BatchNorm_0"]["mean"], outputs.mean(0), atol=1e-5)
    tx = flatjax.esgd(0.1, steps=10)
    namespace |= {"state": tx.init(jax.tree.map(jnp.zeros_like, center)), "params": center}
    exec(anchor, namespace)
    found = flatjax.eval_params(namespace["state"], center)
    jax.tree.map(np.testing.assert_array_equal, found, center)


@pytest.mark.slow
def test_the_initialisation_of_the_faq_runs():
    program = next(one for one in examples("faq") if "compiler_options" in one)
    namespace = {}
    exec(program, namespace)
    assert set(namespace["variables"]) == {"params", "batch_stats"}


@pytest.mark.slow
@pytest.mark.claim("docs/diloco.md", "It prints a loss below 0.01")
def test_the_example_of_diloco_runs_and_learns(capsys):
    namespace = {}
    for program in examples("diloco"):
        exec(program.replace('jax.config.update("jax_num_cpu_devices", 8)', ""), namespace)
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 2
    assert max(losses) < 0.01
    assert len(namespace["params"]["b"]) == 1


@pytest.mark.slow
@pytest.mark.claim("docs/distributed.md", "the center, which equals `truth`")
def test_the_example_of_distributed_trains_on_a_mesh(capsys):
    devices(8)
    (program,) = examples("distributed")
    exec(program.replace('jax.config.update("jax_num_cpu_devices", 8)', ""), {})
    assert capsys.readouterr().out == "{'replica': 4, 'data': 2} [ 1. -2.  3.]\n"


@pytest.mark.claim("docs/distributed.md", "30 seconds without a sign of life")
def test_the_time_after_which_processes_stop():
    assert processes.HEARTBEAT_SECONDS == 30


@pytest.mark.slow
@pytest.mark.claim(
    "docs/merging.md", "between the siblings is below 2%, that between strangers above"
)
@pytest.mark.claim("docs/merging.md", "The error of the soup is below 5%")
def test_the_example_of_merging_runs_and_shows_the_barrier(capsys):
    exec(examples("merging")[0], {})
    values = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    siblings, strangers, soup = values
    assert siblings < 0.02
    assert strangers > 0.1
    assert soup < 0.05


@pytest.mark.slow
@pytest.mark.claim("docs/merging.md", "The barrier is below 1%")
@pytest.mark.claim("docs/merging.md", "and the error of the mean below 4%")
@pytest.mark.claim("docs/merging.md", "`flatness` measures the barrier between them and their mean")
def test_saved_models_are_merged_by_the_command_and_the_program(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGES["merging"], re.DOTALL)
    *train, measure = [
        line.removeprefix("python -m experiments ").split()
        for line in commands.replace("\\\n", "").splitlines()
    ]
    for command in train:
        assert main([*command, "--no-progress", "--local-energy-samples", "2"]) == 0
    assert main([*measure, "--level", "quick", "--samples", "2", "--no-progress"]) == 0
    printed = capsys.readouterr().out
    assert "The barrier between runs/12 and runs/8: error " in printed
    assert "The soup of runs/8, runs/12: error " in printed

    namespace = {}
    exec(examples("merging")[1], namespace)
    printed = capsys.readouterr().out
    assert namespace["between"].height["error"] < 0.01
    assert "The barrier between 12 epochs and 8 epochs: error" in printed
    mean = namespace["mean"].values["error"]
    assert mean < 0.04
    assert f"The soup of 8 epochs, 12 epochs: error {mean:.4g} (alone" in printed
    predict, params, state = flatjax.models.load("runs/mean")
    test = flatjax.data.load("digits").test
    logits = np.asarray(predict(params, state, test.image))
    assert np.mean(logits.argmax(-1) != test.label) == pytest.approx(mean, abs=1e-6)


@pytest.mark.claim("docs/your_data.md", "It prints 11 tokens")
def test_the_example_of_a_text_runs(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(examples("your_data")[3], {})
    printed = capsys.readouterr().out
    assert printed.startswith("11 ")
    assert "'targets': (16, 32)" in printed


def test_the_stream_of_grain_gives_batches():
    pytest.importorskip("grain")  # no extra has it: the page says how to install it
    namespace = {}
    exec(examples("your_data")[4], namespace)
    one, other, same = (next(iter(namespace["batches"](epoch))) for epoch in (0, 1, 0))
    assert one["image"].shape == (128, 32, 32, 3)
    np.testing.assert_array_equal(one["label"], same["label"])
    assert (one["label"] != other["label"]).any()
    assert len(namespace["make"]().test) == 500


def test_the_loader_of_pytorch_has_an_order_for_each_epoch():
    torch = pytest.importorskip("torch")
    namespace = {"torch": torch, "dataset": torch.arange(1000)}
    exec(examples("your_data")[5], namespace)
    one, other, same = (next(iter(namespace["batches"](epoch))) for epoch in (0, 1, 0))
    assert len(one) == 128
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.slow
@pytest.mark.claim("docs/finetuning.md", "learn the new classes (errors below 20%)")
def test_the_example_of_fine_tuning_runs_and_learns(capsys):
    (program,) = examples("finetuning")
    exec(program, {})
    pretrained, *others = capsys.readouterr().out.splitlines()
    assert float(pretrained.split()[-1]) < 0.1
    for line in others:
        new, old = map(float, line.split()[-2:])
        assert new < 0.2
        assert old > 0.1


@pytest.mark.slow
@pytest.mark.claim("docs/how_flat.md", "The second one begins with a sentence")
def test_the_program_on_how_flat_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)
    (program,) = examples("how_flat")
    namespace = {}
    exec(program, namespace)
    printed = capsys.readouterr().out
    assert "batches of 16 is flatter than batches of 512 by" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert (tmp_path / "which_is_flatter.png").stat().st_size > 1000
    back = flatjax.flatness.Report.load(tmp_path / "batches_of_16.json")
    assert str(back) == str(namespace["reports"]["batches of 16"])


@pytest.mark.slow
@pytest.mark.claim("docs/how_singular.md", "λ is far below d/2 for a trained network")
def test_the_program_of_how_singular_measures_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(examples("how_singular")[0], namespace)
    found = namespace["found"]
    assert 0 < found.mean < 0.5 * found.num_weights / 2
    assert (tmp_path / "how_singular.png").is_file()


@pytest.mark.slow
@pytest.mark.claim("docs/how_singular.md", "prints an interval around 0.75")
@pytest.mark.claim("docs/how_singular.md", "the program prints 0.36 within 0.04")
def test_the_programs_of_how_singular_print_known_values(capsys):
    for program in examples("how_singular")[1:]:
        exec(program, {})
    printed = capsys.readouterr().out
    low, high = map(float, re.search(r"95%: (\S+) to (\S+)\)", printed).groups())
    assert 0.65 < low < 0.75 < high < 0.85
    assert float(printed.split()[-1]) == pytest.approx(0.36, abs=0.04)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:replicas have not met")  # they are not trained there
def test_the_blocks_of_the_cheat_sheet_run(capsys):
    namespace = {}
    for block in examples("cheat_sheet"):
        exec(block, namespace)
    assert jax.tree.map(jnp.shape, namespace["more"]) == {"w": (5, 64, 10), "b": (5, 10)}
    assert namespace["reports"]["one"].key == namespace["reports"]["center"].key
    assert "local energy" in capsys.readouterr().out


def test_the_defaults_of_the_cheat_sheet():
    rows = rows_below(PAGES["cheat_sheet"], "| symbol | argument")
    defaults = {row[1].strip("`"): row[2] for row in rows}
    known = {
        name: parameter.default
        for function in (
            flatjax.schedules.scoping,
            flatjax.pull_to_center,
            flatjax.esgd,
            flatjax.flatness.report,
        )
        for name, parameter in inspect.signature(function).parameters.items()
    }
    names = {"momentum", "period", "inner_steps", "averaging_decay", "noise_scale", "factor"}
    for name in names:
        assert float(defaults[name]) == known[name], name
    assert defaults["decoupled"] == str(known["decoupled"])
    assert defaults["level"] == f'"{known["level"]}"'
    decays = [
        inspect.signature(function).parameters["weight_decay"].default
        for function in (flatjax.replicated_sgd, flatjax.esgd)
    ]
    assert defaults["weight_decay"] == "0 in `replicated_sgd`, 5e-4 in `esgd`"
    assert decays == [0, 5e-4]
    sigmas = inspect.signature(flatjax.flatness.local_energy).parameters["sigmas"].default
    assert defaults["sigmas"] == f"{min(sigmas)} to {max(sigmas)}"
