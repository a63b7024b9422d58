"""Channels that have several outputs each, as channels that have one: the input holds every channel so many times.

oneDNN's kernels are fast for one output a channel; for several they take up to ten times as long.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import tensorflow as tf
from depthwise.ops.lowerings.base import Contraction
from depthwise.ops.lowerings.native.kernels import MOST_COLUMNS, integers, onednn_computes
from depthwise.ops.spec import MOST_SPECS, ConvSpec

raw = tf.raw_ops

LARGEST_MULTIPLIER_OF_FEW_TAPS, FEW_TAPS = 4, 9
"""Most outputs of a channel for which those of FEW_TAPS or fewer are computed so: of eight, 3x3 on (8,112,112,3) takes
0.8 ms, and would take 1.0."""
LARGEST_MULTIPLIER_OF_FILTER_GRADS = 3
"""The same for filter gradients: with four, 3x3 on (8,28,28,128) takes 2.7 ms, and would take 2.5 to 3.4."""
LEAST_WINDOWS = 3
"""Fewest windows that a sample of the input is in, on average, for its gradient to be computed so: with two outputs,
5x5 with stride 2 (six windows) on (8,56,56,64) takes 3.9 ms, and 2.7 so, but 3x3 with stride 2 (two) 1.8 and 1.9, 4x4
with stride 4 (one) 2.3 and 3.0."""
COMMON_STRIDES = {1, 2, 4}
"""With other strides oneDNN has no fast kernel for the gradient of an input with several outputs a channel, unless the
filter is small: 5x5 with stride 3 on (8,56,56,64) takes 45 ms, and 2.6 so, 16x16 with stride 16 on (8,64,64,32) 22 and
2.8, 2x4 with stride 3 24 and 2.6, but 3x3 with stride 3 2.3 and 3.3."""
LEAST_ELEMENTS = 2**17
"""Fewest elements of such an input, if known, that are worth the calls of a few more ops: with two outputs, a step of
3x3 on (8,14,14,64) takes 2.0 ms and 2.1 without, on (1,14,14,64) 1.4 and 1.1, eager."""
MOST_SHRUNK = 4
"""How many times as large as its output such an input may be, strides aside: 7x7 with 16 outputs on (64,7,7,512),
VALID, takes 27 MiB, and would take 116."""


@lru_cache(maxsize=MOST_SPECS)
def repeated(spec: ConvSpec, contraction: Contraction) -> ConvSpec | None:
    """The same convolution, in NHWC, of an input that holds every channel once for each of its outputs.

    Milliseconds of oneDNN's kernels, as it stands and so, with two outputs a channel:

                                        output      input gradient  filter gradient
        3x3 on (8,56,56,128)            7.0, 5.4    8.0, 5.3        9.5, 6.2
        5x5 on (8,28,28,192)            4.3, 2.5    6.4, 2.4        4.1, 7.0
        27x27 on (8,14,14,128)          16, 1.7     17, 1.6         46, 67
        3x3, stride 2, on (8,56,56,64)  1.2, 2.1    1.8, 1.9        1.4, 2.2
        5x5, stride 2, on (8,56,56,64)  2.7, 2.7    3.9, 2.7        2.7, 8.0

    Returns:
      None where that is no faster, takes too much memory, or sizes of the filter are unknown.
    """
    multiplier = spec.multiplier
    if multiplier is None or multiplier == 1 or not spec.is_sized or not onednn_computes(spec):
        return None
    is_everyday, are_few = not (spec.is_strided or spec.is_dilated), multiplier <= LARGEST_MULTIPLIER_OF_FILTER_GRADS
    pays = {
        "output": not spec.is_strided and (multiplier <= LARGEST_MULTIPLIER_OF_FEW_TAPS or spec.taps > FEW_TAPS),
        "input_grad": spec.taps >= LEAST_WINDOWS * spec.rows.stride * spec.cols.stride or _is_uncommon(spec),
        "filter_grad": is_everyday and are_few and spec.cols.taps <= MOST_COLUMNS,
    }
    found = replace(spec, channels=spec.channels and spec.channels * multiplier, multiplier=1)
    return found if pays[contraction] and not _is_out_of_proportion(found) else None


def _is_uncommon(spec: ConvSpec) -> bool:
    """Whether oneDNN has no fast kernel for the input gradient of several outputs a channel."""
    is_small = spec.taps <= FEW_TAPS and spec.cols.taps <= MOST_COLUMNS
    return not is_small and not COMMON_STRIDES.issuperset((spec.rows.stride, spec.cols.stride))


def _is_out_of_proportion(spec: ConvSpec) -> bool:
    """Whether the repeated input, if its size is known, is too small to be worth it, or too large beside its output."""
    if None not in spec.input_shape and prod(spec.input_shape) < LEAST_ELEMENTS:  # type: ignore[arg-type]
        return True
    axes = spec.rows, spec.cols
    return spec.known and prod(axis.size for axis in axes) > MOST_SHRUNK * prod(
        axis.output * axis.stride for axis in axes
    )


# By products with a row or column of ones: MatMul, of so few columns, takes two thirds of the time of Tile, half of
# ReduceSum's.


def repeat(spec: ConvSpec, x: tf.Tensor) -> tf.Tensor:
    """The input, every channel once for each of its outputs."""
    *image, channels = x.shape.as_list() if x.shape.is_fully_defined() else tf.unstack(tf.shape(x))
    samples = raw.MatMul(a=tf.reshape(x, integers([-1, 1])), b=tf.ones([1, spec.multiplier], x.dtype))
    return tf.reshape(samples, integers([*image, channels * spec.multiplier]))


def filter_of_repeated(spec: ConvSpec, w: tf.Tensor) -> tf.Tensor:
    """The filter for the repeated input: [h, w, C, M] as [h, w, C*M, 1]."""
    return tf.reshape(w, integers([spec.rows.taps, spec.cols.taps, -1, 1]))


def sum_of_repeated(spec: ConvSpec, dx: tf.Tensor, sizes: Any) -> tf.Tensor:
    """The gradient of a channel: the sum of those of its repetitions."""
    sums = raw.MatMul(a=tf.reshape(dx, integers([-1, spec.multiplier])), b=tf.ones([spec.multiplier, 1], dx.dtype))
    return tf.reshape(sums, integers(sizes))
