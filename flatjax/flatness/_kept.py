"""Programs that are kept for a function, for as long as the function lives.

Measures of one `eval_fn` share programs that take long to compile. A program that referred to
`eval_fn` would keep it alive, with all arrays that it closes over. A program is therefore made of a
stand-in, which has only a weak reference to `eval_fn`. A measure that uses the program must hold
`eval_fn` itself.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from flatjax._weak import place_of, weakly

T = TypeVar("T")


def kept(maxsize: int) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Makes a decorator that keeps what is made of a function while it lives.

    Args:
      maxsize: how many results are kept for each function; others are made again.

    Returns:
      A decorator of `make(fn, *given)`. The results of `make` must not hold `fn` in other ways, and
      must not be called after `fn` is dead. If `fn` has no weak references, or `given` has no hash,
      nothing is kept.

    Examples:
      >>> made = []
      >>> @kept(maxsize=8)
      ... def make(fn, number):
      ...     made.append(number)
      ...     return lambda: fn() + number
      >>> one = lambda: 1
      >>> make(one, 2)(), make(one, 2)(), made
      (3, 3, [2])
    """

    def decorate(make: Callable[..., T]) -> Callable[..., T]:
        caches: dict[tuple[int, ...], tuple[Any, Callable[..., T]]] = {}

        def cache_of(fn):
            """Returns the cache of a function; it is dropped when the function dies."""
            place = place_of(fn)
            if place not in caches:
                reference = weakly(fn, lambda _: caches.pop(place, None))
                stand_in = lambda *given: reference()(*given)
                cache = functools.lru_cache(maxsize)(functools.partial(make, stand_in))
                caches[place] = reference, cache
            return caches[place][1]

        @functools.wraps(make)
        def made(fn, *given):
            try:
                return cache_of(fn)(*given)
            except TypeError:  # no weak reference, or no hash
                return make(fn, *given)

        return made

    return decorate
