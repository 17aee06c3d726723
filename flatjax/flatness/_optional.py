"""Packages that only pictures, tables and progress bars need: imported when they are used."""

import importlib
from types import ModuleType


def require(module: str, caller: str) -> ModuleType:
    """Imports a module of an optional package; if it is missing, says how to install it.

    Args:
      module: such as `"matplotlib.pyplot"`; a package of the extra `report`.
      caller: what needs it, for the error.

    Raises:
      ImportError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{caller} needs {package}, which is not installed: pip install 'flatjax[report]'."
        ) from error


def new_axes(caller: str, ax: object = None) -> object:
    """The given axes of matplotlib; those of a new figure if there are none."""
    if ax is not None:
        return ax
    return require("matplotlib.pyplot", caller).figure(layout="constrained").add_subplot()
