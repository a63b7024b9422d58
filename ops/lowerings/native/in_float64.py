"""Small eager calls where TensorFlow has oneDNN: computed in float64, which oneDNN leaves to TensorFlow's own kernels.

A oneDNN kernel wakes other threads however little there is to sum, and an eager call waits for them. Output, input and
filter gradient of 3x3 on (1,8,8,8) take 70, 79 and 121 us in oneDNN's float32 kernels; in TensorFlow's, of float64, 28,
29 and 29, with the casts around them, which make 18 of it. (No attribute of the float32 op leads past oneDNN.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import tensorflow as tf
from depthwise.ops.geometry import ceil_div
from depthwise.ops.lowerings.base import Contraction
from depthwise.ops.lowerings.native.kernels import onednn_computes
from depthwise.ops.spec import MOST_SPECS, ConvSpec

raw = tf.raw_ops

VECTOR = 8
"""Channels that count as one product: TensorFlow's kernels pad those that they are short of."""
MOST_PRODUCTS = {"output": 2**13, "input_grad": 2**13, "filter_grad": 2**14}
"""Most products, by VECTOR. Of 7,000, 3x3 on (1,14,14,16) with two outputs a channel, the three take 102, 101 and 159
us in float32 and 44, 44 and 47 in float64; of 14,000, 3x3 on (1,40,40,8), 61, 57 and 76, and 80, 81 and 84, but the
filter gradient of 3x3 on (1,7,7,256) 123 and 54."""
MOST_ELEMENTS = 2**14
"""Most elements of input, output or filter, all of which are cast."""


def in_float64_if_small(
    spec: ConvSpec, contraction: Contraction, compute: Callable[..., tf.Tensor], a: tf.Tensor, b: tf.Tensor, *sizes: Any
) -> tf.Tensor:
    """compute(spec, a, b, *sizes), in float64 and rounded once where that takes less time."""
    wide = _in_float64(spec, contraction) if tf.executing_eagerly() else None
    if wide is None or a.dtype != b.dtype:  # a gradient of another dtype the kernel refuses; a cast would not
        return compute(spec, a, b, *sizes)
    # (An eager op that is given the name of a dtype takes a slow path.)
    result = compute(wide, raw.Cast(x=a, DstT=tf.float64), raw.Cast(x=b, DstT=tf.float64), *sizes)
    return raw.Cast(x=result, DstT=tf.float32)


@lru_cache(maxsize=MOST_SPECS)
def _in_float64(spec: ConvSpec, contraction: Contraction) -> ConvSpec | None:
    """The same convolution of float64, where TensorFlow's kernels compute it soon."""
    if not onednn_computes(spec) or spec.may_be_empty:
        return None
    # What takes oneDNN one kernel and TensorFlow several ops: the output of 3x3, rate 2, on (1,8,8,8), 96 and 122 us.
    # (Gradients of what is dilated take both several: 277 and 173, 273 and 121.)
    takes_several_ops = contraction == "output" if spec.is_dilated else spec.rows.stride != spec.cols.stride
    if takes_several_ops:
        return None
    # oneDNN leaves explicit padding to TensorFlow's kernels itself, in gradients: both take 131 us in float32, 180 so.
    # (NCHW is transposed, which oneDNN does.)
    is_explicit = not isinstance(spec.rows.padding, str)
    if is_explicit and contraction != "output" and not spec.is_dilated and spec.data_format == "NHWC":
        return None
    shapes: Any = spec.input_shape, spec.output_shape, spec.filter_shape  # which are known in eager code
    samples, outputs, taps = map(prod, shapes)
    channels = shapes[2][2] * shapes[2][3]
    windows = samples // shapes[2][2] if contraction == "input_grad" else outputs // channels
    products = windows * spec.taps * ceil_div(channels, VECTOR)
    is_small = products <= MOST_PRODUCTS[contraction] and max(samples, outputs, taps) <= MOST_ELEMENTS
    return replace(spec, dtype="float64") if is_small else None
