"""Divide parametrizations between the fast test run and the slow one.

The fast run is the README's command. It holds at least one case of most tests; the other cases
are marked `slow`, and so are tests that are a longer form of another one. CI runs them after it
with `-m slow`. None is slow because it fails.
"""

import pytest

SLOW = pytest.mark.slow


def slow(*values, **options):
    """One case that only the slow run takes: `pytest.param` with the mark."""
    return pytest.param(*values, marks=SLOW, **options)


def only(fast, cases):
    """All cases as parameters, where those that are not among `fast` are slow.

    A case is a string or a tuple of values; a case in `fast` that does not exist is an error.
    """
    cases, fast = list(cases), list(fast)
    missing = [case for case in fast if case not in cases]
    if missing:
        raise ValueError(f"fast must hold cases only, got {missing}")
    values = lambda case: case if isinstance(case, tuple) else (case,)
    return [pytest.param(*values(case), marks=() if case in fast else SLOW) for case in cases]
