"""Code that AutoGraph leaves as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import tensorflow as tf

Function = TypeVar("Function", bound=Callable[..., Any])


def not_converted(function: Function) -> Function:
    """The function, which runs as written, with all that it calls, in a `tf.function` too.

    There AutoGraph converts whatever is called that is not TensorFlow's or Keras's: it parses the source, rewrites it
    so that `if` and `while` may ask tensors, and writes a module. The code here asks Python values alone. Converted,
    its 39 functions took 2 s of the first trace in a process (0.4 s without).
    """
    return cast(Function, tf.autograph.experimental.do_not_convert(function))
