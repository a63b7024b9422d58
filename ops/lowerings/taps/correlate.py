"""The filter gradient: for each tap, the correlation of the input with the output gradient.

    filter_grad[i, j, c] = sum over n, p, q of x[n, stride*p + rate*i - before, stride*q + rate*j - before, c]
                                               * dy[n, p, q, c]

Written down like that, as a sum over everything but the channels, XLA emits one scalar loop per tap that walks through
memory channel by channel: 30 times slower than TensorFlow's kernel. So the sum is taken in two stages:

1.  over columns, as an explicit sum of products of column slices: an elementwise expression, which XLA vectorises over
    the channels. One loop forms a group of taps, so that they share what they load. The result is a partial
    sum for every image and row: [batch, rows, tap rows, tap columns * width, channels].
2.  over rows and images, of something that is by now much smaller than the input.

Stage 2 must begin with an op that XLA does not fuse stage 1 into (that would restore the scalar loop): a reduction
over windows is one, and `AvgPool` times its window size is that reduction in every mode of TensorFlow.

In stage 1 tap columns are concatenated. Tap rows, of which a concatenation would have too many, become a real loop
dimension: a column of the input, repeated and cut into rows that are `rate` longer than itself, holds in row i the
column shifted by i taps. Broadcast, reshape, slice and transpose are mere index arithmetic in the fused loop. What
wraps around the edge of the image is masked out.

XLA emits a concatenation at the root of a fusion as one loop nest per operand, each loading everything again. Behind
a `reverse` it becomes one nest, whose loads the taps share; stage 2 sees to the order.

What stage 1 writes is as large as the input times taps, over the terms of a sum. For large filters that is too much at
once: there the tap rows become a loop, two of them a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from depthwise.ops.geometry import Axis, ceil_div
from depthwise.ops.lowerings.taps.layout import (
    TAP_ROWS,
    Layout,
    is_large,
    lines_held,
    shaped,
    sizes_of,
    step_range,
    total,
)
from depthwise.ops.spec import FLOATS, ConvSpec

raw = tf.raw_ops

Slice: TypeAlias = Callable[[int], tf.Tensor]
"""From a column to the slice of an image that begins there, in the shape of the products."""

TAP_COLUMNS = 5
"""Most tap columns in one group: with more concatenation operands, LLVM stops vectorising some."""
COLUMN_TERMS, MORE_COLUMN_TERMS = 14, 28
"""Most terms of one sum over columns: compile time grows with them. Wider images add up several columns at once."""
MOST_PARTIAL_SUMS = {"NHWC": 2**22, "NCHW": 2**20}
"""Most partial sums, where more terms could make them fewer. 7x7 on (8,56,56,96): with 28 terms 7.3 ms, 19 MiB and
3.2 s to compile; with 14 terms 13 ms, 64 MiB and 1.8 s. (What takes over 32 MiB, glibc gives back to the system and
asks for anew in every call, page by page. A crowded cache costs more: 7x7 on (8,28,28,1024) takes 108 ms with 28 terms,
and 47 with 7 and four times the memory.) In NCHW there are copies of both images beside them: 3x3 on (8,128,56,56)
took 18 ms, and takes 6.2."""


def filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The filter gradient."""
    x = Layout(spec, sizes).repeat(x)
    layout = Layout(replace(spec, data_format="NHWC"), sizes)
    if spec.data_format == "NCHW":
        x, dy = _channels_last(layout, x), _channels_last(layout, dy)
    contract = _by_turns if is_large(spec) else _at_once
    return tf.reshape(contract(layout, x, dy, MOST_PARTIAL_SUMS[spec.data_format]), sizes)


def _at_once(layout: Layout, x: tf.Tensor, dy: tf.Tensor, most_sums: int) -> tf.Tensor:
    """The filter gradient of NHWC images, [tap rows, tap columns, channels]."""
    rows = layout.spec.rows
    return _contracted(rows, _Columns(layout, x, dy, rows, most_sums), tf.constant(_on_input(rows, rows.taps)))


def _by_turns(layout: Layout, x: tf.Tensor, dy: tf.Tensor, most_sums: int) -> tf.Tensor:
    """The same, as a loop: a few tap rows meet a band of the padded input as the rows of a small filter do."""
    rows, cols = layout.spec.rows, layout.spec.cols
    turns = ceil_div(rows.taps, TAP_ROWS)
    band = Axis(rows.reach + rows.rate * (TAP_ROWS - 1), TAP_ROWS, rows.stride, rows.rate, "VALID")
    before, after = rows.pads
    # As far as the last turn reaches, which may have a row too many.
    after = max(after, rows.rate * TAP_ROWS * (turns - 1) + band.size - before - rows.size)
    padded = raw.Pad(input=x, paddings=[[0, 0], [before, after], [0, 0], [0, 0]])
    batch, _, _, channels = sizes_of(x)
    sizes = layout.shape(batch, band.size, cols.size, channels)
    on_input = np.split(_on_input(rows, turns * TAP_ROWS), turns, axis=1)
    masks = tf.constant(np.stack(on_input)[:, np.newaxis, :, :, np.newaxis])

    def turn(k: tf.Tensor) -> tf.Tensor:
        begin = tf.stack([0, rows.rate * TAP_ROWS * k, 0, 0])
        met = raw.Slice(input=padded, begin=begin, size=sizes)
        met = shaped(met, (x.shape[0], band.size, cols.size, x.shape[3]))
        # In memory, for a slice that begins anywhere would keep the loop of stage 1 from being vectorised.
        mask = layout.in_memory(tf.gather(masks, k))[0, :, :TAP_ROWS, 0]
        return _contracted(band, _Columns(layout, layout.in_memory(met), dy, band, most_sums), mask)

    found = tf.map_fn(turn, tf.range(turns), fn_output_signature=dy.dtype)
    return tf.reshape(found, layout.shape(turns * TAP_ROWS, cols.taps, channels))[: rows.taps]


def _contracted(rows: Axis, columns: _Columns, on_input: tf.Tensor) -> tf.Tensor:
    """[tap rows, tap columns, channels], of whose products those count that are `on_input` [outputs, tap rows]."""
    layout, tap_columns = columns.layout, columns.axis.taps
    x_slice = cache(lambda column: _skew(layout, rows, columns.cut_x((0, rows.size, 1), column)))
    dy_slice = cache(lambda column: columns.cut_dy((0, rows.output, 1), column))
    parts = []
    for taps in np.array_split(range(tap_columns), ceil_div(tap_columns, TAP_COLUMNS)):
        products = _concat([columns.sum(j, x_slice, dy_slice) for j in taps], 3)
        summed = _sum_rows(layout, _partial_sums(rows, products, on_input))
        shape = layout.shape(rows.taps, len(taps), columns.width, sizes_of(summed)[2])
        parts.append(tf.reduce_sum(tf.reshape(summed, shape), 2))
    return _concat(parts, 1)


def _channels_last(layout: Layout, image: tf.Tensor) -> tf.Tensor:
    """An NCHW image as NHWC.

    In memory, for stage 1 would else load what lies a channel apart: 7x7 on (8,192,28,28) took 12.8 ms, and takes 5.1
    (NHWC: 3.7).
    """
    return layout.in_memory(raw.Transpose(x=image, perm=[0, 2, 3, 1]))


class _Columns:
    """Input and output gradient (NHWC), cut along the columns into slices of one width."""

    def __init__(self, layout: Layout, x: tf.Tensor, dy: tf.Tensor, rows: Axis, most_sums: int) -> None:
        """In as many slices as there are COLUMN_TERMS, or MORE_COLUMN_TERMS where partial sums exceed `most_sums`; in
        fewer where so many would crowd the cache, whatever memory that takes. Where some tap covers fewer columns than
        a slice then has, slices are as narrow as that."""
        self.layout, self.x, self.dy = layout, x, dy
        self.axis = axis = layout.spec.cols
        covers = [stop - start for start, stop in map(axis.outputs_of_tap, range(axis.taps)) if stop > start]
        width = ceil_div(axis.output, COLUMN_TERMS)
        sums = rows.output * rows.taps * axis.taps * width * (dy.shape[0] or 1) * (dy.shape[3] or 1)
        if sums > most_sums:
            width = ceil_div(axis.output, MORE_COLUMN_TERMS)
        column_bytes = (dy.shape[3] or 1) * dy.dtype.size
        # A term of a sum loads a line of the input and one of the output gradient. Once there are more terms than the
        # cache holds lines, nearly every load misses: the filter gradient of 3x3 on (8,56,56,256) took 9.5 ms with 14
        # terms 4096 bytes apart, and takes 6.5 with 12 terms 5120 apart; 5x5 on (8,28,28,512) took 15 with 28 terms
        # 2048 apart, and takes 7.9 with 10 terms 6144 apart. (Of the input alone, lines that a stride brings together
        # do no harm: 3x3, stride 2, on (8,56,56,256).)
        while ceil_div(axis.output, width) > lines_held(width * column_bytes):
            width += 1
        self.width = min([width, *covers])

    def pairs(self, tap: int) -> list[tuple[int, int, int]]:
        """Where the slices lie whose products a tap sums: (input column, output column, columns that count).

        Only outputs whose window has the tap on the input take part, so padding costs nothing. Where their number is
        no multiple of the width, the last slice overlaps the one before it, and only its last columns count.
        """
        start, stop = self.axis.outputs_of_tap(tap)
        begins = [(q, self.width) for q in range(start, stop - self.width + 1, self.width)]
        if (stop - start) % self.width:
            begins.append((stop - self.width, (stop - start) % self.width))
        return [(self.axis.input_of_tap(tap, q), q, counting) for q, counting in begins]

    def sum(self, tap: int, x_slice: Slice, dy_slice: Slice) -> tf.Tensor:
        """Stage 1 for one tap: the sum of the products of its pairs of slices."""
        terms = []
        for x_column, dy_column, counting in self.pairs(tap):
            product = raw.Mul(x=x_slice(x_column), y=dy_slice(dy_column))
            if counting < self.width:
                # Selected, not multiplied by zero: what is not finite must not spread.
                counts = tf.constant(np.arange(self.width)[:, np.newaxis] >= self.width - counting)
                product = raw.SelectV2(condition=counts, t=product, e=tf.zeros([], product.dtype))
            terms.append(product)
        if not terms:
            return tf.zeros_like(raw.Mul(x=x_slice(0), y=dy_slice(0)))
        # Each tap begins elsewhere. Where all taps meet all outputs, their loops would else begin with the same loads,
        # which LLVM hoists out of the branches between the taps, and then vectorises none of them.
        first = tap * len(terms) // self.axis.taps
        terms = terms[first:] + terms[:first]
        # In four chains, which a processor can add up side by side.
        return total([total(terms[k::4]) for k in range(min(4, len(terms)))])

    def cut_x(self, rows: tuple[int, int, int], column: int) -> tf.Tensor:
        begin, end, step = step_range(column, self.width, self.axis.stride)
        return self.layout.cut(self.x, rows, (begin, end, step))

    def cut_dy(self, rows: tuple[int, int, int], column: int) -> tf.Tensor:
        """For all tap rows: [batch, outputs, 1, width, channels]."""
        dy = self.layout.cut(self.dy, rows, (column, column + self.width, 1))
        batch, height, width, channels = sizes_of(dy)
        return tf.reshape(dy, self.layout.shape(batch, height, 1, width, channels))


def _partial_sums(rows: Axis, products: tf.Tensor, on_input: tf.Tensor) -> tf.Tensor:
    """Stage 1, tap rows as a loop dimension: [batch, rows (padded), tap rows, tap columns * width, channels]."""
    mask = on_input[:, :, tf.newaxis, tf.newaxis]
    partial = raw.SelectV2(condition=mask, t=products, e=tf.zeros([], products.dtype))
    missing = _row_window(rows.output)[1] - rows.output
    if missing:
        partial = raw.Pad(input=partial, paddings=[[0, 0], [0, missing], [0, 0], [0, 0], [0, 0]])
    return tf.reverse(partial, [2])


def _on_input(rows: Axis, taps: int) -> np.ndarray:
    """Whether, in the window of an output (first axis), one of so many taps (second axis) lies on the input."""
    at = np.array([[rows.input_of_tap(i, p) for i in range(taps)] for p in range(rows.output)])
    on_input: np.ndarray = (at >= 0) & (at < rows.size)
    return on_input


def _skew(layout: Layout, rows: Axis, columns: tf.Tensor) -> tf.Tensor:
    """[batch, size, width, channels] -> [batch, outputs, tap rows, width, channels]: the samples under every tap.

    The sample of output p under tap row i is (stride*p + rate*i - before) modulo the size. Walk through the column
    again and again, in rows of `length` = rate modulo the size: row i begins rate*i further on.
    """
    size, before = rows.size, rows.pads[0]
    length = rows.rate + size * ceil_div(max(0, rows.reach - rows.rate), size)
    begin = -before % size
    walked = begin + rows.taps * length
    batch, _, width, channels = sizes_of(columns)
    turns = ceil_div(walked, size)
    t = tf.reshape(columns, layout.shape(batch, 1, size, width, channels))
    t = tf.broadcast_to(t, layout.shape(batch, turns, size, width, channels))
    t = tf.reshape(t, layout.shape(batch, turns * size, width, channels))
    t = layout.cut(t, (begin, walked, 1), (0, width, 1))
    t = tf.reshape(t, layout.shape(batch, rows.taps, length, width, channels))
    t = raw.StridedSlice(
        input=t,
        begin=layout.shape(0, 0, 0, 0, 0),
        end=layout.shape(0, 0, rows.reach, 0, 0),
        strides=layout.shape(1, 1, rows.stride, 1, 1),
        begin_mask=31,
        end_mask=27,
    )
    return raw.Transpose(x=t, perm=layout.shape(0, 2, 1, 3, 4))


def _row_window(rows: int) -> tuple[int, int]:
    """Rows that a window of stage 2 adds up, and the rows that all windows hold.

    Two windows at least, one for each of two threads; of a power of two, by which a mean is divided exactly.
    """
    window = 1 << ((rows + 1) // 2).bit_length() - 1
    return window, window * ceil_div(rows, window)


def _sum_rows(layout: Layout, partial: tf.Tensor) -> tf.Tensor:
    """Stage 2: the sum over images and rows, [tap rows, tap columns * width, channels]."""
    batch, rows, taps, columns, channels = sizes_of(partial)
    window = _row_window(rows)[0]
    if partial.dtype.name in FLOATS and window > 1:
        partial = tf.reshape(partial, layout.shape(batch, rows, taps * columns, channels))
        # The mean times the number of rows, a power of two: the sum, without another rounding.
        sizes = [1, window, 1, 1]
        partial = raw.AvgPool(value=partial, ksize=sizes, strides=sizes, padding="VALID") * window
    summed = tf.reduce_sum(partial, [0, 1])
    return tf.reverse(tf.reshape(summed, layout.shape(taps, columns, channels)), [0])


def _concat(parts: list[tf.Tensor], axis: int) -> tf.Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis)
