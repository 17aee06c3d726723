"""Devices for tests that need more than one."""

import jax
import pytest


def devices(number):
    """The first `number` devices; where there are fewer, skips the test that asks for them.

    `conftest` makes eight of one CPU, unless FLATJAX_TEST_DEFAULTS is set.
    """
    found = jax.devices()
    if len(found) < number:
        pytest.skip(f"needs {number} devices, and {len(found)} is there")
    return found[:number]
