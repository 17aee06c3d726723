"""What tests of properties share: how many examples are tried, trees of any form, bad values."""

from collections.abc import Callable

import hypothesis
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

NUMBERS_NO_MORE = [np.nan, np.inf, -1.0, 1j, "0.1", None, True, [0.1], np.ones(2)]
NO_COUNTS = [0, -1, 2.5, np.nan, "3", None, True, [4], jnp.array(3)]


def holds(check: Callable[..., None], examples: int, **strategies: st.SearchStrategy) -> None:
    """Whether a property holds of examples, the same every time."""
    settings = hypothesis.settings(
        max_examples=examples, deadline=None, derandomize=True, database=None
    )
    settings(hypothesis.given(**strategies)(check))()


def trees_of(leaves: st.SearchStrategy) -> st.SearchStrategy:
    """Strategy of pytrees: dicts and tuples, with None and without anything at all."""
    nodes = lambda inner: (
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.tuples(inner, inner)
    )
    return nodes(st.recursive(leaves | st.none(), nodes, max_leaves=3))
