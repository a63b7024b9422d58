"""The three contractions where height or width is unknown when the op is traced.

Which taps meet padding cannot be known then, so padding is materialised: one more pass over the image. Under XLA the
sizes are constants by the time the code is compiled.
"""

from __future__ import annotations

import tensorflow as tf
from depthwise.ops.geometry import Axis
from depthwise.ops.lowerings.taps.layout import Layout, total
from depthwise.ops.spec import ConvSpec, nhwc

raw = tf.raw_ops


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The convolution, as a stencil on the padded input."""
    layout = Layout(spec, tf.shape(w))
    rows, cols = spec.axes(nhwc(tf.shape(x), spec.data_format), ())
    x, weights = layout.pad(layout.repeat(x), rows.pads, cols.pads), layout.weights(w)
    terms = [
        raw.Mul(x=layout.cut(x, _under_tap(rows, i), _under_tap(cols, j)), y=weights[i][j])
        for i in range(rows.taps)
        for j in range(cols.taps)
    ]
    return tf.ensure_shape(total(terms), spec.output_shape)


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The input gradient, as an unstrided stencil on the output gradient, spread out by the stride and padded.

    Input p takes part in output i through tap t where stride*i = p + before - rate*t. So spread dy with stride - 1
    zeros between its samples, `rate * (taps - 1)` zeros ahead; the sample wanted stands at
    p + before + rate*(taps - 1 - t).
    """
    layout = Layout(spec, tf.shape(w))
    rows, cols = spec.axes(nhwc(sizes, spec.data_format), ())
    spread, weights = _spread(layout, dy, rows, cols), layout.weights(w)
    terms = [
        raw.Mul(x=layout.cut(spread, _around_tap(rows, i), _around_tap(cols, j)), y=weights[i][j])
        for i in range(rows.taps)
        for j in range(cols.taps)
    ]
    return tf.ensure_shape(layout.sum_repeated(total(terms)), spec.input_shape)


def filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The filter gradient: for each tap, the correlation of the padded input with the output gradient."""
    layout = Layout(spec, sizes)
    rows, cols = spec.axes(nhwc(tf.shape(x), spec.data_format), ())
    x = layout.repeat(x)
    on_input = tf.cast(layout.pad(tf.ones_like(x, tf.int32), rows.pads, cols.pads), tf.bool)
    x = layout.pad(x, rows.pads, cols.pads)
    taps = []
    for i in range(rows.taps):
        for j in range(cols.taps):
            window = _under_tap(rows, i), _under_tap(cols, j)
            # Selected, not multiplied by zero: what is not finite in dy must not reach taps that lie on padding.
            product = raw.Mul(x=layout.cut(x, *window), y=dy)
            product = raw.SelectV2(condition=layout.cut(on_input, *window), t=product, e=tf.zeros([], dy.dtype))
            taps.append(tf.reduce_sum(product, [0, layout.row, layout.col]))
    return tf.ensure_shape(tf.reshape(tf.stack(taps), sizes), spec.filter_shape)


def _under_tap(axis: Axis, tap: int) -> tuple[int, tf.Tensor, int]:
    """The slice of the padded input that this tap meets."""
    begin = axis.rate * tap
    return begin, begin + axis.reach, axis.stride


def _around_tap(axis: Axis, tap: int) -> tuple[tf.Tensor, tf.Tensor, int]:
    """The slice of the spread output gradient that this tap carries to the input."""
    begin = axis.pads[0] + axis.rate * (axis.taps - 1 - tap)
    return begin, begin + axis.size, 1


def _spread(layout: Layout, dy: tf.Tensor, rows: Axis, cols: Axis) -> tf.Tensor:
    """dy with stride - 1 zeros between its samples and zeros around it, in one op: the gradient of a slice."""
    shape, begin, end = tf.unstack(tf.shape(dy)), [0] * 4, tf.unstack(tf.shape(dy))
    strides = [1] * 4
    for at, axis in ((layout.row, rows), (layout.col, cols)):
        ahead = axis.rate * (axis.taps - 1)
        shape[at] = ahead + axis.size + sum(axis.pads)
        begin[at], end[at], strides[at] = ahead, ahead + axis.reach, axis.stride
    return raw.StridedSliceGrad(shape=tf.stack(shape), begin=begin, end=tf.stack(end), strides=strides, dy=dy)
