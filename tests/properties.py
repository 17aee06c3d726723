"""What tests of properties share: how many examples are tried, and trees of any form."""

from collections.abc import Callable

import hypothesis
from hypothesis import strategies as st


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
