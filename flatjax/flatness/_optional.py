"""Optional packages (pictures, tables, progress bars), imported when used."""

import importlib
from types import ModuleType


def require(module: str, caller: str) -> ModuleType:
    """Imports an optional module; if it is missing, says how to install it.

    Args:
      module: name such as `"matplotlib.pyplot"`; its package is in the extra `report`.
      caller: name of the function that needs it, for the error.

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
    """Returns the given axes of matplotlib, or the axes of a new figure."""
    if ax is not None:
        return ax
    return require("matplotlib.pyplot", caller).figure(layout="constrained").add_subplot()
