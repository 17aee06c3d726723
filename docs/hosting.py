"""Links to the repository, if setup.cfg has its address as `url`."""

import configparser
import json
import pathlib

SETUP = pathlib.Path(__file__).parents[1] / "setup.cfg"


def address() -> str:
    """Returns the address of the repository, or ""."""
    settings = configparser.ConfigParser()
    settings.read(SETUP, encoding="utf-8")
    return settings.get("metadata", "url", fallback="").rstrip("/")


def in_colab(url: str, notebook: str) -> str:
    """Returns a sentence that links a notebook in Colab, with the installation."""
    place = url.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{place}/blob/main/notebooks/{notebook}.ipynb"
    command = f"!git clone {url} && pip install -e 'flatjax[notebooks]' && cd flatjax"
    return f"[Open this notebook in Colab]({link}), and run `{command}` there first."


def with_links(name: str, text: str, url: str) -> str:
    """Returns the source of a page with the links that belong to it.

    Args:
      name: the page, such as "index" or "notebooks/quickstart".
      text: its source, Markdown or the JSON of a notebook.
      url: the address of the repository; "" adds nothing.
    """
    if url and name == "index":
        title, rest = text.split("\n", 1)
        return f"{title}\n\n[Source]({url}) · [Questions and problems]({url}/issues)\n{rest}"
    if url.startswith("https://github.com/") and name.startswith("notebooks/"):
        notebook = json.loads(text)
        link = in_colab(url, name.split("/")[1])
        cell = {"cell_type": "markdown", "id": "colab", "metadata": {}, "source": link}
        notebook["cells"].insert(1, cell)
        return json.dumps(notebook)
    return text
