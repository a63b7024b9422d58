"""The three contractions on a padded image, for unknown heights and widths and for large filters.

Which taps meet padding cannot be known at trace time without sizes, so padding is materialised: one more pass over the
image. (Under XLA the sizes are constants by the time the code is compiled.) With a large filter that pass is lost
among its taps, and what matters is that they are not all written out: a 31x31 filter is 961 multiply-adds, which XLA
compiles for a minute into one loop body that runs out of registers. Past `UNROLLED_TAPS` the tap rows become a loop
whose body is one row of taps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf
from depthwise.ops.geometry import Axis
from depthwise.ops.lowerings.taps.layout import Layout, shaped, total
from depthwise.ops.spec import ConvSpec, nhwc

raw = tf.raw_ops

UNROLLED_TAPS = 64
"""Most taps that are written out. 7x7 on (8,56,56,96) took 8 ms written out and 46 in a loop; 31x31 on (2,32,32,64) 197
and 10."""


def is_large(spec: ConvSpec) -> bool:
    """Whether the filter has too many taps to write out."""
    return bool(spec.rows.taps * spec.cols.taps > UNROLLED_TAPS)


class _Walk(NamedTuple):
    """Where the taps of an axis stand on a padded image: tap t meets `reach` samples from origin + advance*t."""

    origin: Any
    advance: int
    reach: Any
    step: int

    def under(self, tap: Any) -> tuple[Any, Any, int]:
        """The slice that this tap meets."""
        begin = self.origin + self.advance * tap
        return begin, begin + self.reach, self.step


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The convolution, as a stencil on the padded input."""
    layout = Layout(spec, tf.shape(w))
    rows, cols = spec.axes(nhwc(tf.shape(x), spec.data_format), ())
    padded = layout.pad(layout.repeat(x), rows.pads, cols.pads)
    return shaped(_stencil(layout, padded, w, *map(_forward, (rows, cols))), spec.output_shape)


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The input gradient, as an unstrided stencil on the output gradient, spread out by the stride and padded.

    Input p takes part in output i through tap t where stride*i = p + before - rate*t. So spread dy with stride - 1
    zeros between its samples, `rate * (taps - 1)` zeros ahead; the sample wanted stands at
    p + before + rate*(taps - 1 - t).
    """
    layout = Layout(spec, tf.shape(w))
    axes = spec.axes(nhwc(sizes, spec.data_format), ())
    walks = [_Walk(a.pads[0] + a.rate * (a.taps - 1), -a.rate, a.size, 1) for a in axes]
    dx = _stencil(layout, _spread(layout, dy, *axes), w, *walks)
    return shaped(layout.sum_repeated(dx), spec.input_shape)


def filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The filter gradient: for each tap, the correlation of the padded input with the output gradient."""
    layout = Layout(spec, sizes)
    rows, cols = spec.axes(nhwc(tf.shape(x), spec.data_format), ())
    x = layout.repeat(x)
    on_input = tf.cast(layout.pad(tf.ones_like(x, tf.int32), rows.pads, cols.pads), tf.bool)
    x = layout.pad(x, rows.pads, cols.pads)
    walk = _forward(cols)

    def tap_row(i: Any) -> tf.Tensor:
        taps = []
        band, band_on_input = (_band(layout, image, _forward(rows), i) for image in (x, on_input))
        for j in range(cols.taps):
            product = raw.Mul(x=_columns(layout, band, walk, j), y=dy)
            # Selected, not multiplied by zero: what is not finite in dy must not reach taps that lie on padding.
            covered = _columns(layout, band_on_input, walk, j)
            product = raw.SelectV2(condition=covered, t=product, e=tf.zeros([], dy.dtype))
            taps.append(tf.reduce_sum(product, [0, layout.row, layout.col]))
        return tf.stack(taps)

    if is_large(spec):
        dw = tf.map_fn(tap_row, tf.range(rows.taps), fn_output_signature=dy.dtype)
    else:
        dw = tf.stack([tap_row(i) for i in range(rows.taps)])
    return shaped(tf.reshape(dw, sizes), spec.filter_shape)


def _forward(axis: Axis) -> _Walk:
    return _Walk(0, axis.rate, axis.reach, axis.stride)


def _stencil(layout: Layout, image: tf.Tensor, w: tf.Tensor, rows: _Walk, cols: _Walk) -> tf.Tensor:
    """The sum over all taps of tap times the samples it meets."""

    def tap_row(i: Any, weights: list[tf.Tensor]) -> tf.Tensor:
        band = _band(layout, image, rows, i)
        return total([raw.Mul(x=_columns(layout, band, cols, j), y=tap) for j, tap in enumerate(weights)])

    weights = layout.weights(w)
    if not is_large(layout.spec):
        return total([tap_row(i, row) for i, row in enumerate(weights)])
    stacked = tf.stack([tf.stack(row) for row in weights])

    def add_row(i: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return i + 1, y + tap_row(i, raw.Unpack(value=tf.gather(stacked, i), num=len(weights[0]), axis=0))

    count = len(weights)
    start = tf.zeros_like(tap_row(0, weights[0]))
    return tf.while_loop(lambda i, _: i < count, add_row, (tf.constant(0), start), maximum_iterations=count)[1]


def _band(layout: Layout, image: tf.Tensor, walk: _Walk, tap: Any) -> tf.Tensor:
    """The rows that a tap row meets; the tap row may be a loop's counter."""
    begin, _, step = walk.under(tap)
    sizes = tf.unstack(tf.shape(image))
    sizes[layout.row] = walk.reach
    band = raw.Slice(input=image, begin=tf.stack(layout.spec.layout(0, begin, 0, 0)), size=tf.stack(sizes))
    return layout.cut(band, (0, walk.reach, step), (0, sizes[layout.col], 1))


def _columns(layout: Layout, band: tf.Tensor, walk: _Walk, tap: int) -> tf.Tensor:
    """The columns of a band that a tap column meets."""
    return layout.cut(band, (0, tf.shape(band)[layout.row], 1), walk.under(tap))


def _spread(layout: Layout, dy: tf.Tensor, rows: Axis, cols: Axis) -> tf.Tensor:
    """dy with stride - 1 zeros between its samples and zeros around it, in one op: the gradient of a slice."""
    shape, begin, end = tf.unstack(tf.shape(dy)), [0] * 4, tf.unstack(tf.shape(dy))
    strides = [1] * 4
    for at, axis in ((layout.row, rows), (layout.col, cols)):
        ahead = axis.rate * (axis.taps - 1)
        shape[at] = ahead + axis.size + sum(axis.pads)
        begin[at], end[at], strides[at] = ahead, ahead + axis.reach, axis.stride
    return raw.StridedSliceGrad(shape=tf.stack(shape), begin=begin, end=tf.stack(end), strides=strides, dy=dy)
