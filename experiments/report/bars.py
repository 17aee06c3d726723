"""Progress bars, which are shown on a terminal only: a log keeps no bars."""

from collections.abc import Iterable
from typing import Any

import tqdm


def bar(values: Iterable[Any] | None = None, *, progress: bool, **options: Any) -> tqdm.tqdm:
    """Makes a progress bar on stderr.

    Args:
      values: what the loop runs over, if the bar counts by itself.
      progress: whether to show it, if stderr is a terminal.
      **options: further arguments of tqdm.
    """
    return tqdm.tqdm(values, disable=None if progress else True, **options)
