"""Executes the sources of notebooks and keeps their outputs beside them, as .ipynb.

`python docs/execute_notebooks.py [name ...]`, by default all of `notebooks/*.py`.
"""

import argparse
import pathlib

import jupytext
import nbclient
import nbformat

ROOT = pathlib.Path(__file__).parents[1]


def execute(source: pathlib.Path) -> pathlib.Path:
    """Runs one notebook from the root of the repository; returns where its outputs are."""
    notebook = jupytext.read(source)
    resources = {"metadata": {"path": ROOT}}
    options = {"resources": resources, "timeout": None, "coalesce_streams": True}
    client = nbclient.NotebookClient(notebook, **options)
    client.record_timing = False  # outputs should change where results do
    client.execute()
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
    executed = source.with_suffix(".ipynb")
    nbformat.write(notebook, executed)
    return executed


def main() -> None:
    """Executes those that are named."""
    sources = sorted((ROOT / "notebooks").glob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[source.stem for source in sources])
    for name in parser.parse_args().names:
        print(execute(ROOT / "notebooks" / f"{name}.py"), flush=True)


if __name__ == "__main__":
    main()
