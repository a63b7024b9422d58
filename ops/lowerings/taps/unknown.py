"""The three contractions where height or width is unknown when the op is traced.

Which taps meet padding cannot be known then, so padding is materialised: one more pass over the image. Under XLA the
sizes are constants by the time the code is compiled.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from depthwise.ops.geometry import Axis
from depthwise.ops.lowerings.taps.layout import Layout, total
from depthwise.ops.spec import ConvSpec, nhwc

raw = tf.raw_ops


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The convolution, as a stencil on the padded input."""
    layout = Layout(spec, tf.shape(w))
    rows, cols = spec.axes(nhwc(tf.shape(x), spec.data_format), ())
    x, weights = _pad(layout, layout.input(x), rows.pads, cols.pads), layout.weights(w)
    terms = [
        raw.Mul(x=layout.cut(x, _under_tap(rows, i), _under_tap(cols, j)), y=weights[i][j])
        for i in range(rows.taps)
        for j in range(cols.taps)
    ]
    return layout.merge(total(terms))


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The input gradient, as an unstrided stencil on the output gradient, spread out by the stride and padded.

    Input p takes part in output i through tap t where stride*i = p + before - rate*t. So spread dy with stride - 1
    zeros between its samples, `rate * (taps - 1)` zeros ahead; the sample wanted stands at
    p + before + rate*(taps - 1 - t).
    """
    layout = Layout(spec, tf.shape(w))
    rows, cols = spec.axes(nhwc(sizes, spec.data_format), ())
    spread, weights = _spread(layout, layout.output(dy), rows, cols), layout.weights(w)
    terms = [
        raw.Mul(x=layout.cut(spread, _around_tap(rows, i), _around_tap(cols, j)), y=weights[i][j])
        for i in range(rows.taps)
        for j in range(cols.taps)
    ]
    dx = total(terms)
    if layout.multiplied:
        dx = tf.reduce_sum(dx, layout.multiplier_axis)
    return tf.ensure_shape(dx, spec.input_shape)


def filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The filter gradient: for each tap, the correlation of the padded input with the output gradient."""
    layout = Layout(spec, sizes)
    rows, cols = spec.axes(nhwc(tf.shape(x), spec.data_format), ())
    x, dy = layout.input(x), layout.output(dy)
    on_input = _pad(layout, tf.ones_like(x, tf.bool), rows.pads, cols.pads)
    x = _pad(layout, x, rows.pads, cols.pads)
    summed = [axis for axis in range(layout.rank) if axis in (0, layout.row, layout.col)]
    taps = []
    for i in range(rows.taps):
        for j in range(cols.taps):
            window = _under_tap(rows, i), _under_tap(cols, j)
            # Selected, not multiplied by zero: what is not finite in dy must not reach taps that lie on padding.
            product = raw.Mul(x=layout.cut(x, *window), y=dy)
            covered = tf.broadcast_to(layout.cut(on_input, *window), tf.shape(product))
            taps.append(tf.reduce_sum(tf.where(covered, product, tf.zeros([], dy.dtype)), summed))
    return tf.ensure_shape(tf.reshape(tf.stack(taps), sizes), spec.filter_shape)


def _under_tap(axis: Axis, tap: int) -> tuple[int, tf.Tensor, int]:
    """The slice of the padded input that this tap meets."""
    begin = axis.rate * tap
    return begin, begin + axis.reach, axis.stride


def _around_tap(axis: Axis, tap: int) -> tuple[tf.Tensor, tf.Tensor, int]:
    """The slice of the spread output gradient that this tap carries to the input."""
    begin = axis.pads[0] + axis.rate * (axis.taps - 1 - tap)
    return begin, begin + axis.size, 1


def _pad(layout: Layout, image: tf.Tensor, rows: tuple[Any, Any], cols: tuple[Any, Any]) -> tf.Tensor:
    pads = [[0, 0] for _ in range(layout.rank)]
    pads[layout.row], pads[layout.col] = list(rows), list(cols)
    return tf.pad(image, pads)


def _spread(layout: Layout, dy: tf.Tensor, rows: Axis, cols: Axis) -> tf.Tensor:
    """dy with stride - 1 zeros between its samples and zeros around it, in one op: the gradient of a slice."""
    shape, begin, end = tf.unstack(tf.shape(dy)), [0] * layout.rank, tf.unstack(tf.shape(dy))
    strides = [1] * layout.rank
    for at, axis in ((layout.row, rows), (layout.col, cols)):
        ahead = axis.rate * (axis.taps - 1)
        shape[at] = ahead + axis.size + sum(axis.pads)
        begin[at], end[at], strides[at] = ahead, ahead + axis.reach, axis.stride
    return raw.StridedSliceGrad(shape=tf.stack(shape), begin=begin, end=tf.stack(end), strides=strides, dy=dy)
