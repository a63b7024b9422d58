"""The contractions tap by tap, for windows or taps that stand further apart than the image is large.

The other formulations lay out what lies between two windows, or between two taps, and let XLA read through it. That is
no more than the image as long as they stand within it. Beyond, it holds nothing, and may be more than there is memory:
a stride or a rate may be as large as 2^31 - 1. Here each tap names the outputs in whose windows it lies on the input,
and the samples there, and nothing in between.

Where sizes are unknown, windows or taps that stand `FAR` apart are taken so, whatever the image. Padded for them, one
of 5x5 took 9 GB for a rate of 2^13, and XLA crashed at 2^29.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import tensorflow as tf
from depthwise.ops.geometry import Axis, Size, at_least_zero, at_most
from depthwise.ops.lowerings.base import Sizes
from depthwise.ops.lowerings.taps.layout import Layout, Range, end_of, shaped
from depthwise.ops.lowerings.total import total
from depthwise.ops.sizes import sizes_of
from depthwise.ops.spec import ConvSpec, nhwc

raw = tf.raw_ops


class Meeting(NamedTuple):
    """Where a tap lies on the input: the outputs in whose windows it does, and the samples that it meets there."""

    tap: int
    outputs: Range
    samples: Range


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The convolution: each tap's products with its samples, put where its outputs are."""
    layout = Layout(spec, tf.shape(w))
    rows, cols = _axes(spec, tf.shape(x))
    x, weights = layout.repeat(x), layout.weights(w)
    y = layout.zeros(x, *(_int32(axis.output) for axis in (rows, cols)))
    products = [
        _put(y, layout, raw.Mul(x=layout.cut(x, r.samples, c.samples), y=weights[r.tap][c.tap]), r.outputs, c.outputs)
        for r, c in _meetings(rows, cols)
    ]
    return shaped(total([y, *products]), spec.output_shape)


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """The input gradient: each tap's products with its outputs' gradients, put where its samples are."""
    layout = Layout(spec, tf.shape(w))
    weights = layout.weights(w)
    rows, cols = _axes(spec, sizes)
    dx = layout.zeros(dy, *(_int32(axis.size) for axis in (rows, cols)))
    products = [
        _put(dx, layout, raw.Mul(x=layout.cut(dy, r.outputs, c.outputs), y=weights[r.tap][c.tap]), r.samples, c.samples)
        for r, c in _meetings(rows, cols)
    ]
    return shaped(layout.sum_repeated(total([dx, *products])), spec.input_shape)


def filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """The filter gradient: for each tap the sum of its samples times its outputs' gradients, if it has any."""
    layout = Layout(spec, sizes)
    meetings = _meetings(*_axes(spec, tf.shape(x)))
    x, over = layout.repeat(x), [0, layout.row, layout.col]
    sums = {
        (r.tap, c.tap): tf.reduce_sum(
            raw.Mul(x=layout.cut(x, r.samples, c.samples), y=layout.cut(dy, r.outputs, c.outputs)), over
        )
        for r, c in meetings
    }
    nothing = tf.zeros(layout.shape(layout.channels * layout.multiplier), x.dtype)
    taps = product(range(spec.rows.taps), range(spec.cols.taps))
    return shaped(tf.reshape(tf.stack([sums.get(tap, nothing) for tap in taps]), sizes), spec.filter_shape)


def _axes(spec: ConvSpec, sizes: Sizes) -> tuple[Axis, Axis]:
    """The spatial axes of an input of these sizes, unknown ones as scalars of 64 bits: what stands far apart may add up
    to more than 32 hold."""
    return spec.axes(nhwc(tf.unstack(tf.cast(sizes, tf.int64), num=4), spec.data_format), ())


def _int32(size: Size) -> Size:
    return tf.cast(size, tf.int32) if isinstance(size, tf.Tensor) else size


def _meetings(rows: Axis, cols: Axis) -> list[tuple[Meeting, Meeting]]:
    """Where each tap lies on the input, by rows and by columns; of those that ever do, as far as that is known."""
    return list(product(_along(rows), _along(cols)))


def _along(axis: Axis) -> list[Meeting]:
    found = []
    for tap in range(axis.taps):
        start, stop = axis.outputs_of_tap(tap)
        count = stop - start
        if isinstance(count, int) and not count:
            continue
        # Where a tap turns out to meet nothing, nothing begins at 0, where it can be cut; and what is one sample, or
        # none, is not spread by the stride, at which XLA crashes if that is large.
        begins = (at * at_most(count, 1) for at in (start, axis.input_of_tap(tap, start)))
        apart = axis.stride if axis.stride == 1 else 1 + (axis.stride - 1) * at_most(at_least_zero(count - 1), 1)
        first, sample, count, apart = map(_int32, (*begins, count, apart))
        found.append(Meeting(tap, (first, count, 1), (sample, count, apart)))
    return found


def _put(zeros: tf.Tensor, layout: Layout, values: tf.Tensor, rows: Range, cols: Range) -> tf.Tensor:
    """An image like `zeros`, but for these values in a range of its rows and columns: the gradient of a slice."""
    begin, end, step = [0] * 4, sizes_of(zeros), [1] * 4
    for axis, samples in ((layout.row, rows), (layout.col, cols)):
        begin[axis], end[axis], step[axis] = samples[0], end_of(samples), samples[2]
    shape = layout.shape(*sizes_of(zeros))
    return raw.StridedSliceGrad(
        shape=shape, begin=layout.shape(*begin), end=layout.shape(*end), strides=layout.shape(*step), dy=values
    )
