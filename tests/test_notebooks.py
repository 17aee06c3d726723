"""Notebooks: sources run, reduced; executed copies agree with them and end in a conclusion."""

import importlib.metadata
import json
import pathlib
import runpy
import sys

import jupytext
import matplotlib
import pytest

SOURCES = sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.py"))
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


@pytest.mark.slow
@each_source
def test_sources_run(source, monkeypatch):
    matplotlib.use("Agg")
    from matplotlib import pyplot

    monkeypatch.setenv("FLATJAX_NOTEBOOK_REDUCED", "1")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    with matplotlib.rc_context():
        runpy.run_path(str(source), run_name="__main__")
    assert pyplot.get_fignums()
    pyplot.close("all")


def test_no_notebook_shadows_a_package():
    # Python looks for imports of a script in the script's folder first.
    packages = sys.stdlib_module_names | importlib.metadata.packages_distributions().keys()
    assert {"json", "optax"} <= packages
    assert not packages & {source.stem for source in SOURCES}


@each_source
def test_the_executed_notebook_is_the_source(source):
    executed = json.loads(source.with_suffix(".ipynb").read_text())
    cells = jupytext.read(source).cells
    sources = lambda cells: [(c["cell_type"], "".join(c["source"])) for c in cells]
    assert sources(executed["cells"]) == sources(cells)
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert source.with_suffix(".ipynb").stat().st_size < 1e6


@each_source
def test_notebooks_end_in_a_conclusion(source):
    last = jupytext.read(source).cells[-1]
    assert last["cell_type"] == "markdown"
    assert "## What you see" in last["source"]
