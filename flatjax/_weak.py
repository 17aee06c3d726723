"""Weak references to functions and to bound methods."""

import inspect
import weakref
from collections.abc import Callable
from typing import Any


def place_of(fn: Callable[..., Any]) -> tuple[int, ...]:
    """Returns a key of a function, which is its own for as long as it lives.

    A bound method is a new object each time that it is read; its parts are not.
    """
    return (id(fn.__self__), id(fn.__func__)) if inspect.ismethod(fn) else (id(fn),)


def weakly(fn: Callable[..., Any], when_dead: Callable[[Any], Any]) -> Callable[[], Any]:
    """Returns a weak reference; `when_dead` is called with it when the function dies.

    Raises:
      TypeError: the function has no weak references.
    """
    return (weakref.WeakMethod if inspect.ismethod(fn) else weakref.ref)(fn, when_dead)
