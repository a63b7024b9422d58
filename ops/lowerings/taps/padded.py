"""The contractions on a padded image, for sizes that are unknown and for large filters.

Which taps meet padding cannot be known at trace time without sizes, so padding is materialised: one more pass over the
image. (Under XLA the sizes are constants by the time the code is compiled.) With a large filter that pass is lost
among its taps, and what matters is that they are not all written out: a 31x31 filter is 961 multiply-adds, which XLA
compiles for a minute into one loop body that runs out of registers. Past `UNROLLED_TAPS` the tap rows become a loop,
`TAP_ROWS` a turn. A filter of unknown size is a loop too, of one tap at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from depthwise.ops.geometry import Axis, at_most
from depthwise.ops.lowerings.base import Sizes
from depthwise.ops.lowerings.taps.layout import (
    TAP_ROWS,
    UNROLLED_TAPS,
    Layout,
    is_large,
    shaped,
    where,
)
from depthwise.ops.lowerings.taps.once import once
from depthwise.ops.lowerings.taps.walk import Walk, over_input
from depthwise.ops.lowerings.total import total
from depthwise.ops.sizes import sizes_of
from depthwise.ops.spec import ConvSpec, nhwc

raw = tf.raw_ops


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The convolution, as a stencil on the padded input."""
    layout = Layout(spec, tf.shape(w))
    axes = rows, cols = spec.axes(nhwc(tf.shape(x), spec.data_format), tf.shape(w))
    padded = layout.pad(layout.repeat(x), rows.pads, cols.pads)
    return shaped(_sum_of_filter_taps(layout, padded, w, *map(_forward, axes)), spec.output_shape)


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """The input gradient, as an unstrided stencil on the output gradient, spread out by the stride and padded.

    Input p takes part in output i through tap t where stride*i = p + before - rate*t. So spread dy with stride - 1
    zeros between its samples, `rate * (taps - 1)` zeros ahead; the sample wanted stands at
    p + before + rate*(taps - 1 - t). In a reversed filter that is where tap t stands.
    """
    layout = Layout(spec, tf.shape(w))
    axes = spec.axes(nhwc(sizes, spec.data_format), tf.shape(w))
    walks = [Walk(a.pads[0], a.rate, a.size, 1) for a in axes]
    dx = _sum_of_filter_taps(layout, _spread(layout, dy, *axes), tf.reverse(w, [0, 1]), *walks)
    return shaped(layout.sum_repeated(dx), spec.input_shape)


def filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """The filter gradient of a filter of unknown size: for each tap in turn, the correlation of the padded input with
    the output gradient. (`correlate` has the others.)"""
    layout = Layout(spec, sizes)
    rows, cols = spec.axes(nhwc(tf.shape(x), spec.data_format), sizes)
    on_input = tf.ones(tf.stack(spec.in_order(1, rows.size, cols.size, 1)), tf.bool)
    images = [layout.pad(image, rows.pads, cols.pads) for image in (layout.repeat(x), on_input)]

    def tap(k: tf.Tensor) -> tf.Tensor:
        bands = [_under(layout, image, layout.row, _forward(rows), k // cols.taps) for image in images]
        samples, covered = (_under(layout, band, layout.col, _forward(cols), k % cols.taps) for band in bands)
        # What is not finite in dy must not reach taps that lie on padding.
        return tf.reduce_sum(where(covered, raw.Mul(x=samples, y=dy)), [0, layout.row, layout.col])

    dw = tf.map_fn(tap, tf.range(rows.taps * cols.taps), fn_output_signature=dy.dtype)
    return shaped(tf.reshape(dw, sizes), spec.filter_shape)


def _forward(axis: Axis) -> Walk:
    """Over the padded input."""
    return over_input(axis)._replace(origin=0)


def _sum_of_filter_taps(layout: Layout, image: tf.Tensor, w: tf.Tensor, rows: Walk, cols: Walk) -> tf.Tensor:
    """The stencil whose taps are the filter's."""
    height, width = sizes_of(w)[:2]
    if layout.spec.is_sized:
        spare = layout.spare if is_large(layout.spec) else 0
        taps = tf.reshape(w, layout.shape(height, width, *layout.weight_shape))
        return sum_of_taps(layout, layout.with_spare(image, spare), layout.with_spare(taps, spare), rows, cols, spare)
    taps = tf.reshape(w, layout.shape(height * width, *layout.weight_shape))

    def tap(k: tf.Tensor) -> tf.Tensor:
        band = _under(layout, image, layout.row, rows, k // width)
        return raw.Mul(x=_under(layout, band, layout.col, cols, k % width), y=tf.gather(taps, k))

    return _loop(height * width, tap, tf.zeros_like(tap(tf.constant(0))))


def sum_of_taps(layout: Layout, image: tf.Tensor, taps: tf.Tensor, rows: Walk, cols: Walk, spare: int) -> tf.Tensor:
    """The sum over all taps of tap times the samples it meets.

    Args:
      taps: [tap rows, tap columns, ...], each of a shape that broadcasts against an image.
      spare: how many channels at the end of image and taps are filler, to be cut off.
    """
    tap_rows, tap_columns, *_ = taps.shape.as_list()
    if tap_rows * tap_columns <= UNROLLED_TAPS:
        return _written_out(layout, image, taps, rows, cols, spare)
    return _by_turns(layout, image, taps, rows, cols, spare)


def _written_out(layout: Layout, image: tf.Tensor, taps: tf.Tensor, rows: Walk, cols: Walk, spare: int) -> tf.Tensor:
    def real(tensor: tf.Tensor) -> tf.Tensor:
        return tensor[..., :-spare] if spare else tensor

    tap_rows, tap_columns, *_ = taps.shape.as_list()

    def tap_row(i: int, weights: tf.Tensor) -> tf.Tensor:
        band = _under(layout, image, layout.row, rows, i)
        each = enumerate(raw.Unpack(value=weights, num=tap_columns, axis=0))
        return total([raw.Mul(x=real(_under(layout, band, layout.col, cols, j)), y=real(weight)) for j, weight in each])

    return once(total([tap_row(i, row) for i, row in enumerate(raw.Unpack(value=taps, num=tap_rows, axis=0))]))


def _by_turns(layout: Layout, image: tf.Tensor, taps: tf.Tensor, rows: Walk, cols: Walk, spare: int) -> tf.Tensor:
    """A loop: each turn adds the products of a few tap rows with the band of the image that they meet.

    Band and taps are put in memory first. To read them from wherever a turn begins costs more than the copy: XLA does
    not tell LLVM that what it writes to cannot be the loop's counter, and where the address of every load is computed
    anew, nothing is vectorised (13x13 on (8,28,28,128): 50 ms, and 11 from memory).
    """
    count, width, *each = sizes_of(taps)
    # The tap rows that are over go first, outside the loop.
    first = 1 + (count - 1) % TAP_ROWS
    sums = _written_out(layout, image, taps[:first], rows, cols, spare)
    turns = (count - first) // TAP_ROWS
    reach = rows.reach + rows.advance * (TAP_ROWS - 1)
    bands = Walk(rows.at(first), rows.advance * TAP_ROWS, reach, 1)
    in_band = Walk(0, rows.advance, rows.reach, rows.step)

    def turn(k: tf.Tensor) -> tf.Tensor:
        band = layout.in_buffer(_under(layout, image, layout.row, bands, k))
        weights = raw.Slice(
            input=tf.reshape(taps, layout.shape(1, 1, count * width, -1)),
            begin=tf.stack([0, 0, (first + TAP_ROWS * k) * width, 0]),
            size=layout.shape(-1, -1, TAP_ROWS * width, -1),
        )
        weights = layout.in_buffer(weights)[0, 0, : TAP_ROWS * width]
        weights = tf.reshape(weights, layout.shape(TAP_ROWS, width, *each))
        return _written_out(layout, band, weights, in_band, cols, spare)

    return _loop(turns, turn, sums) if turns else sums


def _loop(count: Any, term: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor) -> tf.Tensor:
    """`start` and the sum of `count` terms, in a loop."""
    _, terms = tf.while_loop(
        lambda i, _: i < count, lambda i, y: (i + 1, y + term(i)), (tf.constant(0), start), maximum_iterations=count
    )
    return terms


def _under(layout: Layout, image: tf.Tensor, dimension: int, walk: Walk, tap: Any) -> tf.Tensor:
    """The samples along a dimension that a tap meets; the tap may be a loop's counter."""
    begin, sizes = [0] * 4, sizes_of(image)
    # Where there is no output, nothing is met, and the tap may stand beyond the image.
    reach = at_most(walk.reach, sizes[dimension])
    begin[dimension] = at_most(walk.at(tap), sizes[dimension] - reach)
    sizes[dimension] = reach
    # Not strided at once: XLA would ask for a constant begin.
    window = raw.Slice(input=image, begin=layout.shape(*begin), size=layout.shape(*sizes))
    if walk.step == 1:
        return window
    steps = [1] * 4
    steps[dimension] = walk.step
    end = layout.shape(*sizes)
    return raw.StridedSlice(input=window, begin=layout.shape(0, 0, 0, 0), end=end, strides=layout.shape(*steps))


def _spread(layout: Layout, dy: tf.Tensor, rows: Axis, cols: Axis) -> tf.Tensor:
    """dy with stride - 1 zeros between its samples and zeros around it, in one op: the gradient of a slice."""
    shape, begin, end = tf.unstack(tf.shape(dy)), [0] * 4, tf.unstack(tf.shape(dy))
    strides = [1] * 4
    for at, axis in ((layout.row, rows), (layout.col, cols)):
        ahead = axis.rate * (axis.taps - 1)
        shape[at] = ahead + axis.size + sum(axis.pads)
        begin[at], end[at], strides[at] = ahead, ahead + axis.reach, axis.stride
    return raw.StridedSliceGrad(shape=tf.stack(shape), begin=begin, end=tf.stack(end), strides=strides, dy=dy)
