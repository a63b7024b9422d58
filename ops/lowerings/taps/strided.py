"""The input gradient of a strided convolution: all phases of the stride in one elementwise expression.

Input p takes part in output i through tap t where stride*i + rate*t = p + before. Divide both sides by the stride, with
remainders: p + before = stride*m + r, rate*t = stride*q + s. Then r = s, and i = m - q:

    dx[m, r] = sum over q of dy[m - q] * w[the tap with stride*q + r = rate*t, if there is one]

So r becomes a dimension of its own beside m, along which shifted output gradients are repeated and the filter, its taps
`rate` apart, is laid out. To read m and r as one dimension, and to cut the padding off, is mere index arithmetic in a
loop that XLA vectorises over the channels. (Phase by phase, and then stacked, the results are a concatenation. It is
fast as long as nothing is cut off it, and else becomes branches inside the loop: 8.5 ms for (8,57,57,144), 3x3, stride
2, VALID, where this took 3.6 in the same run and TensorFlow's kernel 3.5.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
import tensorflow as tf
from depthwise.ops.geometry import Axis, Size, ceil_div
from depthwise.ops.lowerings.base import Sizes
from depthwise.ops.lowerings.taps.layout import UNROLLED_TAPS, Layout, Range, is_large, shaped, where
from depthwise.ops.lowerings.taps.once import once
from depthwise.ops.lowerings.total import total
from depthwise.ops.sizes import sizes_of
from depthwise.ops.spec import ConvSpec

raw = tf.raw_ops

MOST_NCHW_TERMS = 16
"""Most terms of a large filter's input gradient in NCHW, which is transposed: 12x12, stride 4, on (8,64,64,64) took
7.0 ms and takes 1.9, 9x9, stride 2, on (8,256,14,14) 1.1 and would take 2.1."""


@dataclass(frozen=True)
class Shifts:
    """An axis as the formula above has it: m in range(length), q in range(count)."""

    axis: Axis

    @property
    def count(self) -> int:
        return int(ceil_div(self.axis.span, self.axis.stride))

    @property
    def length(self) -> int:
        return int(ceil_div(self.axis.pads[0] + self.axis.size, self.axis.stride))

    @property
    def pads(self) -> tuple[int, int]:
        """Padding of the output gradient under which every m - q is a sample of it."""
        return self.count - 1, max(0, self.length - self.axis.output)

    def window(self, shift: int) -> Range:
        """dy[m - shift] for all m, in the padded output gradient."""
        return self.count - 1 - shift, self.length, 1

    def at(self, shift: int) -> slice:
        """The places of a shift in the filter that is laid out."""
        return slice(shift * self.axis.stride, (shift + 1) * self.axis.stride)

    @property
    def places(self) -> int:
        """The places of all shifts."""
        return self.count * self.axis.stride

    @cached_property
    def is_tap(self) -> np.ndarray:
        """Which of them are taps: [count, stride]."""
        found = np.zeros([self.count, self.axis.stride], bool)
        found.flat[: self.axis.span : self.axis.rate] = True
        return found


def pays(spec: ConvSpec) -> bool:
    """Whether there are strides, and few enough terms to write out: each is of one tap in every phase."""
    if not spec.is_strided:
        return False
    if not is_large(spec):
        return True
    terms = prod(int(np.count_nonzero(Shifts(axis).is_tap.any(1))) for axis in (spec.rows, spec.cols))
    return terms <= (UNROLLED_TAPS if spec.data_format == "NHWC" else MOST_NCHW_TERMS)


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """The input gradient."""
    if spec.data_format == "NCHW":
        # The phases of columns would be neighbours in memory, and no vectors. (What `end_to_end` leaves.)
        inner = replace(spec, data_format="NHWC")
        dx = input_grad(inner, w, raw.Transpose(x=dy, perm=[0, 2, 3, 1]), sizes)
        return raw.Transpose(x=dx, perm=[0, 3, 1, 2])
    layout = Layout(spec, tf.shape(w))
    rows, cols = Shifts(spec.rows), Shifts(spec.cols)
    batch, _, _, channels = sizes_of(dy)
    w = tf.reshape(w, [spec.rows.taps, spec.cols.taps, -1])
    taps = laid_out(w, channels, (spec.rows.rate, spec.cols.rate), [rows.places, cols.places])
    dy = layout.pad(dy, rows.pads, cols.pads)

    def product(i: int, j: int) -> tf.Tensor | None:
        here = rows.is_tap[i][:, np.newaxis] & cols.is_tap[j]
        if not here.any():
            return None
        image = layout.cut(dy, rows.window(i), cols.window(j))
        image = tf.reshape(image, layout.shape(batch, rows.length, 1, cols.length, 1, channels))
        weights = taps[rows.at(i), cols.at(j)][:, tf.newaxis]
        return where(here[:, np.newaxis, :, np.newaxis], raw.Mul(x=image, y=weights))

    bands = [[product(i, j) for j in range(cols.count)] for i in range(rows.count)]
    found = [[term for term in band if term is not None] for band in bands]
    dx = total([total(band) for band in found if band])
    height, width = (shifts.length * shifts.axis.stride for shifts in (rows, cols))
    dx = layout.sum_repeated(tf.reshape(dx, layout.shape(batch, height, width, channels)))
    top, left = spec.rows.pads[0], spec.cols.pads[0]
    dx = layout.cut(dx, (top, spec.rows.size, 1), (left, spec.cols.size, 1))
    return shaped(once(dx), spec.input_shape)


def laid_out(w: tf.Tensor, channels: Size, rates: tuple[int, int], places: list[int]) -> tf.Tensor:
    """A filter [tap rows, tap columns, channels] with its taps these rates apart and zeros elsewhere, in so many places
    of rows and columns."""
    spans = [rate * (taps - 1) + 1 for rate, taps in zip(rates, w.shape.as_list()[:2], strict=True)]
    return raw.StridedSliceGrad(
        shape=tf.stack([*places, channels]),
        begin=[0, 0, 0],
        end=tf.stack([*spans, channels]),
        strides=[*rates, 1],
        dy=w,
    )
