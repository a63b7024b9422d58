"""Where the dimensions of an image tensor stand, in either data format, and the few things done along them.

Every image has the C*M channels of the output: with a channel multiplier M the input is repeated M times along its
channels (a broadcast and a reshape, which XLA reads through), so that no formulation has to know about multipliers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from math import gcd
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from depthwise.ops.geometry import Run, Size, at_least_zero
from depthwise.ops.lowerings.base import Sizes
from depthwise.ops.lowerings.total import total
from depthwise.ops.sizes import sizes_of
from depthwise.ops.spec import ConvSpec

raw = tf.raw_ops

CACHE_LINE_BYTES, CACHE_PERIOD_BYTES, WAYS = 64, 4096, 8
"""What lies 4096 bytes apart falls into one set of a processor's first cache, which holds 8 lines, or a few more."""

UNROLLED_TAPS = 64
"""Most taps that are written out. 7x7 on (8,56,56,96) takes 11 ms written out and 13 in a loop, 11x11 on (8,28,28,128)
11 and 6."""
TAP_ROWS = 2
"""Tap rows in one turn of the loop over those of a large filter; for its gradient, the fewest."""

FUSED_TERMS, MOST_SLICES = 64, 8
"""Most taps, of all outputs of a channel, that an input gradient sums in one fusion; and the most outputs that are
sliced from memory otherwise. 7x7 on (8,28,28,192) took 28 ms in one fusion with two outputs, 23 with three, and takes 9
and 13 from memory; 3x3 on (8,28,28,64) took 4.4 with 8 outputs, and takes 3.5, but with 16 it takes 5.1, not 6.8."""


Range: TypeAlias = "tuple[Any, Any, Any]"
"""Samples along a dimension: the first, how many, how far apart."""


def end_of(samples: Range) -> Size:
    """Where a range ends: after its last sample, or where it begins if it has none."""
    first, count, step = samples
    return first + at_least_zero(step * (count - 1) + 1)


class Layout:
    """The dimensions of a spec's images."""

    def __init__(self, spec: ConvSpec, filter_sizes: Sizes) -> None:
        self.spec = spec
        self.channels = filter_sizes[2] if spec.channels is None else spec.channels
        self.multiplier = filter_sizes[3] if spec.multiplier is None else spec.multiplier
        self.row, self.col = (1, 2) if spec.data_format == "NHWC" else (2, 3)
        self.channel = 3 if spec.data_format == "NHWC" else 1
        self.weight_shape = [-1] if spec.data_format == "NHWC" else [-1, 1, 1]
        """Shape in which the taps at one place, one per image channel, broadcast against an image."""
        self.spare = spare_channels(spec)
        """Channels of zeros to put between columns."""
        self._nodes: dict[Hashable, tf.Tensor] = {}

    def repeat(self, x: tf.Tensor) -> tf.Tensor:
        """The input, each channel as often as it has outputs."""
        if self.spec.multiplier == 1:
            return x
        sizes = sizes_of(x)
        after = self.channel + 1
        split = self.shape(*sizes[:after], self.multiplier, *sizes[after:])
        sizes[self.channel] = sizes[self.channel] * self.multiplier
        return tf.reshape(tf.broadcast_to(tf.expand_dims(x, after), split), self.shape(*sizes))

    def sum_repeated(self, dx: tf.Tensor) -> tf.Tensor:
        """The transpose of `repeat`: the sum over the outputs of each input channel.

        XLA fuses what is summed into the sum, which then has the taps of every output for terms: scalar code, where
        they are many.
        """
        if self.spec.multiplier == 1:
            return dx
        sizes = sizes_of(dx)
        if self._is_summed_from_memory():
            # A slice for each output: a reduction XLA would move ahead of the padding, and fuse again.
            dx, end = self.in_buffer(dx), self.shape(*sizes)
            begins = [self.spec.in_order(0, 0, 0, m) for m in range(self.multiplier)]
            strides = self.spec.in_order(1, 1, 1, self.multiplier)
            return total([raw.StridedSlice(input=dx, begin=begin, end=end, strides=strides) for begin in begins])
        split = self.shape(*sizes[: self.channel], self.channels, self.multiplier, *sizes[self.channel + 1 :])
        return tf.reduce_sum(tf.reshape(dx, split), self.channel + 1)

    def _is_summed_from_memory(self) -> bool:
        if not self.spec.known or self.spec.multiplier is None or self.spec.multiplier > MOST_SLICES:
            return False
        return bool(self.spec.taps * self.spec.multiplier > FUSED_TERMS)

    def weights(self, w: tf.Tensor) -> list[list[tf.Tensor]]:
        """The filter as rows of taps, each of a shape that broadcasts against an image."""
        rows, cols = self.spec.rows.taps, self.spec.cols.taps
        w = tf.reshape(w, [rows, cols, *self.weight_shape])
        return [raw.Unpack(value=row, num=cols, axis=0) for row in raw.Unpack(value=w, num=rows, axis=0)]

    def with_spare(self, tensor: tf.Tensor, spare: int) -> tf.Tensor:
        """The tensor, whose last dimension is the channels, with so many channels of zeros after them."""
        if not spare:
            return tensor
        return raw.Pad(input=tensor, paddings=[[0, 0]] * (tensor.shape.rank - 1) + [[0, spare]])

    def weights_with_spare(self, w: tf.Tensor) -> list[list[tf.Tensor]]:
        """As `weights`, but slices of one buffer with spare channels after each tap."""
        if not self.spare:
            return self.weights(w)
        rows, cols, channels = self.spec.rows.taps, self.spec.cols.taps, self.channels * self.multiplier
        spaced = self.with_spare(tf.reshape(w, [rows * cols, channels]), self.spare)
        # Flat: XLA sees that a slice of a padding reads no zeros, and then pads nothing; through a reshape it does not.
        flat, step = tf.reshape(spaced, [-1]), channels + self.spare
        begins = [[(i * cols + j) * step for j in range(cols)] for i in range(rows)]
        return [[raw.Slice(input=flat, begin=[at], size=self.shape(channels)) for at in row] for row in begins]

    def cut(self, image: tf.Tensor, rows: Range, cols: Range) -> tf.Tensor:
        """Ranges of rows and columns, everything of the other dimensions; of a `piece`, not its spare channels."""
        known = [-1 if size is None else size for size in image.shape.as_list()]
        batch, channels = known[0], known[self.channel]
        if self.spare and channels == self.channels * self.multiplier + self.spare:
            channels -= self.spare
        (top, height, row_step), (left, width, col_step) = rows, cols
        begin = self.shape(*self.spec.in_order(0, top, left, 0))
        if all(isinstance(step, int) and step == 1 for step in (row_step, col_step)):
            size = self.shape(*self.spec.in_order(batch, height, width, channels))
            return raw.Slice(input=image, begin=begin, size=size)
        end = self.shape(*self.spec.in_order(batch, end_of(rows), end_of(cols), channels))
        strides = self.shape(*self.spec.in_order(1, row_step, col_step, 1))
        open_ends = (batch < 0) | (channels < 0) << self.channel
        return raw.StridedSlice(input=image, begin=begin, end=end, strides=strides, end_mask=open_ends)

    def shape(self, *sizes: Size) -> tf.Tensor:
        """Sizes as one tensor, the same node for the same ones.

        Most nodes of a contraction would be such tensors and what they are made of, and most of the time to trace it: a
        step of 31x31 on images of unknown size took 8 s, and takes 3.
        """
        if all(isinstance(size, int) for size in sizes):
            return self._node(sizes, lambda: tf.constant(sizes))
        numbers = [self._node(size, partial(tf.constant, size)) if isinstance(size, int) else size for size in sizes]
        return self._node(tuple(number.ref() for number in numbers), lambda: raw.Pack(values=numbers))

    def _node(self, key: Hashable, make: Callable[[], tf.Tensor]) -> tf.Tensor:
        # The body of a loop is a graph of its own, in which a constant from outside is none.
        key = tf.compat.v1.get_default_graph(), key
        if key not in self._nodes:
            self._nodes[key] = make()
        return self._nodes[key]

    def pad(self, image: tf.Tensor, rows: tuple[Any, Any], cols: tuple[Any, Any]) -> tf.Tensor:
        """The image with (before, after) zeros around its rows and columns."""
        return raw.Pad(input=image, paddings=self.spec.in_order([0, 0], list(rows), list(cols), [0, 0]))

    def in_buffer(self, image: tf.Tensor) -> tf.Tensor:
        """The image, one longer in its third dimension (by zeros, which are to be sliced off), in a buffer of its own.

        XLA fuses a slice or a transposition into all slices that are taken of it; a padding only where there is one
        slice. But it sees that a slice of the padding reads no zeros, and then there is none: hence the reshape between
        the two, through which it does not look.
        """
        first, second, third, last = sizes_of(image)
        rows = tf.reshape(image, self.shape(first * second, third, last))
        rows = raw.Pad(input=rows, paddings=[[0, 0], [0, 1], [0, 0]])
        return tf.reshape(rows, self.shape(first, second, third + 1, last))

    def piece(self, image: tf.Tensor, rows: Run, cols: Run) -> tf.Tensor:
        """The piece of an image, and the padding around it, that two runs want; padded, it has spare channels."""
        if rows.piece is None or cols.piece is None:
            return image
        # In one op: of two, XLA drops the one whose zeros no slice reads.
        paddings = self.spec.in_order([0, 0], list(rows.pads), list(cols.pads), [0, self.spare])
        (top, bottom), (left, right) = rows.piece, cols.piece
        return raw.Pad(input=self.cut(image, (top, bottom - top, 1), (left, right - left, 1)), paddings=paddings)

    def zeros(self, image: tf.Tensor, height: Any, width: Any) -> tf.Tensor:
        """An image of zeros with the channels of the output, the batch and dtype of this one."""
        sizes = self.spec.in_order(sizes_of(image)[0], height, width, self.channels * self.multiplier)
        return tf.zeros(self.shape(*sizes), image.dtype)


def spare_channels(spec: ConvSpec) -> int:
    """How many channels of zeros to append to each column: as many as fill a cache line, or none.

    Samples that are met together lie a column's bytes apart, and so do their taps. Where they are more lines than the
    first cache holds at that distance, their loads throw each other out. With spare channels (8,7,7,1024), 5x5, takes
    1.1 ms instead of 2.4, 7x7 2.2 instead of 6.9, 13x13 4.4 instead of 11; 31x31 on (8,56,56,128) 250 instead of 541.
    """
    size = tf.as_dtype(spec.dtype).size
    if spec.data_format == "NCHW" or spec.channels is None or spec.multiplier is None or not spec.is_sized:
        return 0
    rows = min(spec.rows.taps, TAP_ROWS) if is_large(spec) else spec.rows.taps
    conflict = 2 * rows * spec.cols.taps > lines_held(spec.channels * spec.multiplier * size)
    return CACHE_LINE_BYTES // size if conflict else 0


def lines_held(step_bytes: int) -> int:
    """How many lines that lie this far apart the first cache holds."""
    return WAYS * CACHE_PERIOD_BYTES // gcd(step_bytes, CACHE_PERIOD_BYTES)


def is_large(spec: ConvSpec) -> bool:
    """Whether the filter has too many taps to write out."""
    return spec.taps > UNROLLED_TAPS


def where(mask: Any, values: tf.Tensor) -> tf.Tensor:
    """The values where a mask holds, and zero elsewhere; as they are, if it is an array that holds everywhere.

    Selected, not multiplied by zero: what is not finite must not spread.
    """
    if isinstance(mask, np.ndarray) and mask.all():
        return values
    return raw.SelectV2(condition=mask, t=values, e=tf.zeros([], values.dtype))


def reused(mask: np.ndarray) -> Any:
    """A mask that `where` takes many times, as one node: of an array, every use makes one."""
    return mask if mask.all() else tf.constant(mask)


def concat(parts: list[tf.Tensor], axis: int) -> tf.Tensor:
    """One or more tensors, one after the other along an axis."""
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis)


def shaped(tensor: tf.Tensor, shape: tuple[int | None, ...]) -> tf.Tensor:
    """The tensor, its static shape told what is known. (Forward mode in a graph fails on `ensure_shape`.)"""
    tensor.set_shape(shape)
    return tensor
