"""The reference values of the Gaussian mixture.

Each row of gaussian_mixture_reference.json holds parameters, the value of the theory and how far it
is to be trusted.
"""

import json
import pathlib

ROWS = json.loads(pathlib.Path(__file__).with_name("gaussian_mixture_reference.json").read_text())


def rows(item, *names):
    """The rows of one item of the theory, of all names or the given ones."""
    return [row for row in ROWS if row["item"] == item and (not names or row["name"] in names)]
