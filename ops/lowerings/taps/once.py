"""To have XLA compute a sum of taps once, however many ops use it.

XLA:CPU fuses what is cheap into each of its users, and computes it anew in each: a sum of products is cheap to it, be
it of 49. A layer normalisation after a 7x7 filter has six users in a training step, mean, variance and gradients among
them, and in one of these, a sum over all but the channels, the whole stencil became scalar code: two such blocks of
ConvNeXt on (8,28,28,192) took 262 ms for a step, and take 180 (163 without their convolutions).

A division is expensive to XLA. What ends in one is fused into a single user, bias and activation say, but is not
computed twice.
"""

from __future__ import annotations

import tensorflow as tf

raw = tf.raw_ops


def once(sums: tf.Tensor) -> tf.Tensor:
    """The same, divided by one.

    XLA would see through a constant. It does not see that 0 | 1 and 1 | 1 are one; LLVM does, and drops the division.
    """
    if not sums.dtype.is_floating:
        return sums
    bit = raw.Cast(x=raw.Greater(x=sums, y=tf.zeros([], sums.dtype)), DstT=tf.int32)
    return raw.RealDiv(x=sums, y=raw.Cast(x=raw.BitwiseOr(x=bit, y=1), DstT=sums.dtype))
