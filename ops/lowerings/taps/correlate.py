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
dimension: a column of the input, put end to end again and again, and cut into rows that are a column (or as many of
them as the outputs reach over) and `rate` samples long, holds in row i the column shifted by i taps. Broadcast,
reshape, slice and transpose are mere index arithmetic in the fused loop. What wraps around the edge of the image is
masked out.

XLA emits a concatenation at the root of a fusion as one loop nest per operand, each loading everything again. Behind
a `reverse` it becomes one nest, whose loads the taps share; stage 2 sees to the order.

What stage 1 writes is as large as the input times taps, over the terms of a sum. Where that is too much at once, the
tap rows of a large filter become a loop, a few of them a turn.

All this needs to know how many columns there are only to cut them well (`columns`). Where sizes are unknown, images are
padded, and cut into as many slices whatever they hold: 3x3 on (8,56,56,128) takes 6.4 ms, and 4.3 where they are known
(the sum as written down above, 103).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from depthwise.ops.geometry import Axis, Size, at_least_zero, ceil_div
from depthwise.ops.lowerings.base import Sizes
from depthwise.ops.lowerings.taps.columns import (
    MORE_COLUMN_TERMS,
    MOST_PARTIAL_SUMS,
    Columns,
    columns_of,
    padded_evenly,
    partial_sums,
)
from depthwise.ops.lowerings.taps.layout import TAP_ROWS, Layout, concat, is_large, shaped, where
from depthwise.ops.sizes import sizes_of
from depthwise.ops.spec import FLOATS, ConvSpec, nhwc

raw = tf.raw_ops

TAP_COLUMNS = 5
"""Most tap columns in one group: with more concatenation operands, LLVM stops vectorising some."""
BLOCK_SIZES = range(16, 65, 8)
"""Channels of NCHW that are transposed together: those of one block lie in one cache line for each column, and are read
from no more lines than the first cache holds. The least of these that divides the channels. 3x3 on (8,128,56,56) took
8.1 ms, and takes 5.3; 5x5 on (8,192,28,28) 3.1 and 2.5."""
MOST_SUMS_AT_ONCE, MOST_SUMS_A_TURN = 2**22, 3 * 2**20
"""Most partial sums of a large filter that are written at once, and most in a turn: in the cache, or nearly. Two tap
rows a turn, 9x9 on (8,28,28,192) took 3.8 ms, and takes 2.4; stride 2, 3.8 and 2.7; 16x16, stride 16, on (8,64,64,64)
1.6 and 0.4; 19x19 on (8,28,28,128) 7.0 and 5.6. With twice as many sums, 13x13 on (8,7,7,1024) takes 4.7, and 3.0 with
these, 27x27 on (8,14,14,512) 17 and 11."""
ROW_WINDOW = 8
"""Rows that a window of stage 2 adds up where their number is unknown."""


def filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Sizes, most_sums: int | None = None) -> tf.Tensor:
    """The filter gradient, of a filter whose height and width are known."""
    rows, cols = spec.axes(nhwc(sizes_of(x), spec.data_format), ())
    x = Layout(spec, sizes).repeat(x)
    layout = Layout(replace(spec, data_format="NHWC", rows=rows, cols=cols), sizes)
    blocks = 1
    if spec.data_format == "NCHW":
        blocks = _blocks(x.shape.as_list()[1])
        x, dy = (_channels_last(layout, image, blocks) for image in (x, dy))
    most_sums = most_sums or MOST_PARTIAL_SUMS[spec.data_format]
    tap_rows = _tap_rows_at_once(spec)
    if tap_rows == spec.rows.taps:
        found = _at_once(layout, x, dy, blocks, most_sums)
    else:
        found = _by_turns(layout, x, dy, blocks, most_sums, tap_rows)
    return tf.reshape(found, sizes)


def _tap_rows_at_once(spec: ConvSpec) -> int:
    """How many tap rows are summed at once: of a large filter, as many as leave few enough partial sums."""
    taps: int = spec.rows.taps
    if not is_large(spec):
        return taps
    if not spec.known or spec.batch is None or spec.channels is None or spec.multiplier is None:
        return min(taps, TAP_ROWS)
    width = ceil_div(spec.cols.output, MORE_COLUMN_TERMS)
    sums = spec.batch * partial_sums(spec.rows, spec.cols, width, spec.channels * spec.multiplier)
    if sums <= MOST_SUMS_AT_ONCE:
        return taps
    most = max(TAP_ROWS, MOST_SUMS_A_TURN * taps // sums)
    return int(ceil_div(taps, ceil_div(taps, most)))


def _at_once(layout: Layout, x: tf.Tensor, dy: tf.Tensor, blocks: int, most_sums: int) -> tf.Tensor:
    """The filter gradient of NHWC images, [tap rows, tap columns, channels].

    Where channels are in blocks, each block of an image is an image, one after the other.
    """
    rows = rows_met = layout.spec.rows
    if not layout.spec.known:
        x, dy = padded_evenly(layout, x, dy, rows.pads_for_a_window)
        rows_met = Axis(sizes_of(x)[1], rows.taps, rows.stride, rows.rate, "VALID")
    on_input = tf.convert_to_tensor(_on_input(rows, rows.taps))
    return _contracted(rows_met, columns_of(layout, x, dy, rows_met, most_sums), blocks, on_input)


def _by_turns(layout: Layout, x: tf.Tensor, dy: tf.Tensor, blocks: int, most_sums: int, tap_rows: int) -> tf.Tensor:
    """The same, as a loop: so many tap rows meet a band of the padded input as the rows of a small filter do."""
    rows, cols = layout.spec.rows, layout.spec.cols
    turns = ceil_div(rows.taps, tap_rows)
    band = Axis(rows.reach + rows.rate * (tap_rows - 1), tap_rows, rows.stride, rows.rate, "VALID")
    before, after = rows.pads
    # As far as the last turn reaches, which may have a row too many.
    after += at_least_zero(rows.rate * tap_rows * (turns - 1) + band.size - before - rows.size - after)
    if layout.spec.known:
        x = layout.pad(x, (before, after), (0, 0))
    else:
        x, dy = padded_evenly(layout, x, dy, (before, after))
    batch, _, width, channels = sizes_of(x)
    on_input = tf.convert_to_tensor(_on_input(rows, turns * tap_rows))
    masks = tf.transpose(tf.reshape(on_input, layout.shape(rows.output, turns, tap_rows)), [1, 0, 2])
    masks = masks[:, tf.newaxis, :, :, tf.newaxis]

    def turn(k: tf.Tensor) -> tf.Tensor:
        begin = tf.stack([0, rows.rate * tap_rows * k, 0, 0])
        image = raw.Slice(input=x, begin=begin, size=layout.shape(batch, band.size, width, channels))
        if layout.spec.known:
            image = shaped(image, (x.shape[0], band.size, width, x.shape[3]))
        # In memory, for a slice that begins anywhere would keep the loop of stage 1 from being vectorised.
        mask = layout.in_buffer(tf.gather(masks, k))[0, :, :tap_rows, 0]
        return _contracted(band, columns_of(layout, layout.in_buffer(image), dy, band, most_sums), blocks, mask)

    found = tf.map_fn(turn, tf.range(turns), fn_output_signature=dy.dtype)
    return tf.reshape(found, layout.shape(turns * tap_rows, cols.taps, blocks * channels))[: rows.taps]


def _contracted(rows: Axis, columns: Columns, blocks: int, on_input: tf.Tensor) -> tf.Tensor:
    """[tap rows, tap columns, channels], of whose products those count that are `on_input` [outputs, tap rows]."""
    layout, tap_columns = columns.layout, columns.axis.taps
    window, held = _row_window(rows.output)
    skew = _skew(layout, rows, columns)
    x_slice = cache(lambda place: skew(columns.cut_x(place)))
    dy_slice = cache(columns.cut_dy)
    parts = []
    for taps in np.array_split(range(tap_columns), ceil_div(tap_columns, TAP_COLUMNS)):
        products = concat([columns.sum(j, x_slice, dy_slice) for j in taps.tolist()], 3)
        partial = _partial_sums(products, on_input, held - rows.output)
        summed = _sum_rows(layout, partial, blocks, window)
        shape = layout.shape(rows.taps, len(taps), columns.width, sizes_of(summed)[2])
        parts.append(tf.reduce_sum(tf.reshape(summed, shape), 2))
    return concat(parts, 1)


def _blocks(channels: int | None) -> int:
    """How many blocks the channels are transposed in."""
    return next((channels // size for size in BLOCK_SIZES if channels and channels % size == 0), 1)


def _channels_last(layout: Layout, image: tf.Tensor, blocks: int) -> tf.Tensor:
    """An NCHW image as NHWC, each block of its channels an image.

    In memory, for stage 1 would else load what lies a channel apart: 7x7 on (8,192,28,28) took 12.8 ms, and takes 3.1
    (as NHWC does).
    """
    batch, channels, height, width = sizes_of(image)
    if blocks > 1:
        image = tf.reshape(image, layout.shape(batch * blocks, channels // blocks, height, width))
    return layout.in_buffer(raw.Transpose(x=image, perm=[0, 2, 3, 1]))


def _partial_sums(products: tf.Tensor, on_input: tf.Tensor, missing: Size) -> tf.Tensor:
    """Stage 1, tap rows as a loop dimension: [batch, rows, tap rows, tap columns * width, channels], and after its rows
    those that are missing from a last window."""
    partial = where(on_input[:, :, tf.newaxis, tf.newaxis], products)
    if not isinstance(missing, int) or missing:
        partial = raw.Pad(input=partial, paddings=[[0, 0], [0, missing], [0, 0], [0, 0], [0, 0]])
    return tf.reverse(partial, [2])


def _on_input(rows: Axis, taps: int) -> Any:
    """Whether, in the window of an output (first axis), one of so many taps (second axis) lies on the input: an array,
    or a tensor where sizes are unknown."""
    outputs = np.arange(rows.output) if rows.known else tf.range(rows.output)
    at = rows.stride * outputs[:, np.newaxis] + rows.rate * np.arange(taps, dtype=np.int32) - rows.pads[0]
    return (at >= 0) & (at < rows.size)


def _skew(layout: Layout, rows: Axis, columns: Columns) -> Callable[[tf.Tensor], tf.Tensor]:
    """[batch, size, width, channels] -> [batch, outputs, tap rows, width, channels]: the samples under every tap.

    The sample of output p under tap row i is (stride*p + rate*i - before) modulo the size. Walk through the column
    again and again, in rows of `length` samples: the least number from `reach` on that is the rate plus a multiple of
    the size, so that row i begins, modulo the size, rate*i further on.
    """
    size, before, reach = rows.size, rows.pads[0], rows.reach
    length = rows.rate + size * ceil_div(at_least_zero(reach - rows.rate), size)
    begin, walked = -before % size, rows.taps * length
    repeats = layout.shape(1, ceil_div(begin + walked, size), 1, 1)
    batch, _, _, channels = sizes_of(columns.x)
    width = columns.width
    in_rows = layout.shape(batch, rows.taps, length, width, channels)
    end = layout.shape(0, 0, reach, 0, 0)

    def skewed(t: tf.Tensor) -> tf.Tensor:
        t = layout.cut(raw.Tile(input=t, multiples=repeats), (begin, walked, 1), (0, width, 1))
        t = raw.StridedSlice(
            input=tf.reshape(t, in_rows),
            begin=layout.shape(0, 0, 0, 0, 0),
            end=end,
            strides=layout.shape(1, 1, rows.stride, 1, 1),
            begin_mask=31,
            end_mask=27,
        )
        return raw.Transpose(x=t, perm=layout.shape(0, 2, 1, 3, 4))

    return skewed


def _row_window(rows: Size) -> tuple[int, Size]:
    """Rows that a window of stage 2 adds up, and the rows that all windows hold.

    Two windows at least, if there are two rows, one for each of two threads; of a power of two, by which a mean is
    divided exactly.
    """
    if not isinstance(rows, int):
        return ROW_WINDOW, ROW_WINDOW * ceil_div(rows, ROW_WINDOW)
    window = 1 << ((rows + 1) // 2).bit_length() - 1
    return window, window * ceil_div(rows, window)


def _sum_rows(layout: Layout, partial: tf.Tensor, blocks: int, window: int) -> tf.Tensor:
    """Stage 2: the sum over images and rows, [tap rows, tap columns * width, channels] (of all blocks).

    The window is not told by the tensor: TensorFlow may not see how many rows it has, where we know.
    """
    batch, rows, taps, columns, channels = sizes_of(partial)
    if partial.dtype.name in FLOATS and window > 1:
        partial = tf.reshape(partial, layout.shape(batch, rows, taps * columns, channels))
        # The mean times the number of rows, a power of two: the sum, without another rounding.
        sizes = [1, window, 1, 1]
        partial = raw.AvgPool(value=partial, ksize=sizes, strides=sizes, padding="VALID") * window
    windows = sizes_of(partial)[1]
    partial = tf.reshape(partial, layout.shape(batch // blocks, blocks, windows, taps, columns, channels))
    summed = raw.Transpose(x=tf.reduce_sum(partial, [0, 2]), perm=[1, 2, 0, 3])
    return tf.reverse(tf.reshape(summed, layout.shape(taps, columns, blocks * channels)), [0])
