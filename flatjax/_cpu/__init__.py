"""What XLA's CPU backend needs to be fast. No other part of the library knows of backends.

Each trick changes the program, never the values beyond rounding, and is chosen when a program is
lowered: for the platform and the number of devices that it is lowered for, not for those of the
machine that traces it. A step that a CPU machine exports for a GPU or TPU contains none of them,
with one exception: on a single GPU, convolutions of few channels are products (`_gradients`).
Only host code that decides how to loop in Python looks at the default backend
(`prefers_unrolled`).

Each docstring says what the trick gains, measured on two x86 cores with jax 0.10, why XLA needs it,
and how to find out whether it can go. `tests/test_cpu.py` removes them one by one.
"""

from flatjax._cpu._compilation import compiled_once
from flatjax._cpu._convolution import conv_general_dilated, conv_general_dilated_cls
from flatjax._cpu._depthwise import depthwise_conv
from flatjax._cpu._normal import normal
from flatjax._cpu._order import after, once
from flatjax._cpu._unrolling import contains_convolution, prefers_unrolled, unrolled_or

__all__ = [
    "after",
    "compiled_once",
    "contains_convolution",
    "conv_general_dilated",
    "conv_general_dilated_cls",
    "depthwise_conv",
    "normal",
    "once",
    "prefers_unrolled",
    "unrolled_or",
]
