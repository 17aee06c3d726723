"""Tricks for XLA's CPU backend; the rest of the library knows no backends.

Each trick changes the program, but its values only by rounding. It is chosen when a program is
lowered: the platform and the number of devices of the compiled program count, not the machine that
traces it. A step that a CPU machine exports for a GPU or TPU therefore contains none of them, with
one exception: on a single GPU, convolutions of few channels are products (`_gradients`). The
default backend matters only for host code that decides how to loop in Python
(`prefers_unrolled`).

Each docstring says what the trick gains (measured on two x86 cores with jax 0.10), why XLA needs
it, and how to find out whether it can be removed. `tests/test_cpu.py` removes them one by one.
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
