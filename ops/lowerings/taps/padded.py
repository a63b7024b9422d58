"""The three contractions on a padded image, for sizes that are unknown and for large filters.

Which taps meet padding cannot be known at trace time without sizes, so padding is materialised: one more pass over the
image. (Under XLA the sizes are constants by the time the code is compiled.) With a large filter that pass is lost
among its taps, and what matters is that they are not all written out: a 31x31 filter is 961 multiply-adds, which XLA
compiles for a minute into one loop body that runs out of registers. Past `UNROLLED_TAPS` the tap rows become a loop
whose body is one row of taps. A filter of unknown size is a loop too, of one tap at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
from depthwise.ops.geometry import Axis
from depthwise.ops.lowerings.taps.layout import Layout, is_large, shaped, total
from depthwise.ops.spec import ConvSpec, nhwc

raw = tf.raw_ops


def _is_sized(spec: ConvSpec) -> bool:
    return spec.rows.taps is not None and spec.cols.taps is not None


class _Walk(NamedTuple):
    """Where the taps of an axis stand on a padded image: tap t meets `reach` samples from origin + advance*t."""

    origin: Any
    advance: int
    reach: Any
    step: int


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The convolution, as a stencil on the padded input."""
    layout = Layout(spec, tf.shape(w))
    axes = rows, cols = spec.axes(nhwc(tf.shape(x), spec.data_format), tf.shape(w))
    padded = layout.pad(layout.repeat(x), rows.pads, cols.pads)
    return shaped(_stencil(layout, padded, w, axes, *map(_forward, axes)), spec.output_shape)


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The input gradient, as an unstrided stencil on the output gradient, spread out by the stride and padded.

    Input p takes part in output i through tap t where stride*i = p + before - rate*t. So spread dy with stride - 1
    zeros between its samples, `rate * (taps - 1)` zeros ahead; the sample wanted stands at
    p + before + rate*(taps - 1 - t).
    """
    layout = Layout(spec, tf.shape(w))
    axes = spec.axes(nhwc(sizes, spec.data_format), tf.shape(w))
    walks = [_Walk(a.pads[0] + a.rate * (a.taps - 1), -a.rate, a.size, 1) for a in axes]
    dx = _stencil(layout, _spread(layout, dy, *axes), w, axes, *walks)
    return shaped(layout.sum_repeated(dx), spec.input_shape)


def filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The filter gradient: for each tap, the correlation of the padded input with the output gradient."""
    layout = Layout(spec, sizes)
    rows, cols = spec.axes(nhwc(tf.shape(x), spec.data_format), sizes)
    on_input = tf.ones(tf.stack(spec.layout(1, rows.size, cols.size, 1)), tf.bool)
    images = [layout.pad(image, rows.pads, cols.pads) for image in (layout.repeat(x), on_input)]

    def band(i: Any) -> list[tf.Tensor]:
        return [_under(layout, image, layout.row, _forward(rows), i) for image in images]

    def tap(band: list[tf.Tensor], j: Any) -> tf.Tensor:
        samples, covered = (_under(layout, image, layout.col, _forward(cols), j) for image in band)
        # Selected, not multiplied by zero: what is not finite in dy must not reach taps that lie on padding.
        products = raw.SelectV2(condition=covered, t=raw.Mul(x=samples, y=dy), e=tf.zeros([], dy.dtype))
        return tf.reduce_sum(products, [0, layout.row, layout.col])

    def tap_row(i: Any) -> tf.Tensor:
        met = band(i)
        return tf.stack([tap(met, j) for j in range(cols.taps)])

    if not _is_sized(spec):
        dw = tf.map_fn(
            lambda k: tap(band(k // cols.taps), k % cols.taps),
            tf.range(rows.taps * cols.taps),
            fn_output_signature=dy.dtype,
        )
    elif is_large(spec):
        dw = tf.map_fn(tap_row, tf.range(rows.taps), fn_output_signature=dy.dtype)
    else:
        dw = tf.stack([tap_row(i) for i in range(rows.taps)])
    return shaped(tf.reshape(dw, sizes), spec.filter_shape)


def _forward(axis: Axis) -> _Walk:
    return _Walk(0, axis.rate, axis.reach, axis.stride)


def _stencil(
    layout: Layout, image: tf.Tensor, w: tf.Tensor, axes: tuple[Axis, Axis], rows: _Walk, cols: _Walk
) -> tf.Tensor:
    """The sum over all taps of tap times the samples it meets."""
    large = _is_sized(layout.spec) and is_large(layout.spec)
    if large:
        image = layout.apart(image)

    def real(tensor: tf.Tensor) -> tf.Tensor:
        return tensor[..., : -layout.spare] if large and layout.spare else tensor

    def tap(band: tf.Tensor, j: Any, weight: tf.Tensor) -> tf.Tensor:
        return raw.Mul(x=real(_under(layout, band, layout.col, cols, j)), y=real(weight))

    def tap_row(i: Any, weights: list[tf.Tensor]) -> tf.Tensor:
        band = _under(layout, image, layout.row, rows, i)
        return total([tap(band, j, weight) for j, weight in enumerate(weights)])

    if not _is_sized(layout.spec):
        height, width = (axis.taps for axis in axes)
        each = tf.reshape(w, tf.stack([height * width, *layout.weight_shape]))
        return _loop(
            height * width,
            lambda k: tap(_under(layout, image, layout.row, rows, k // width), k % width, tf.gather(each, k)),
        )
    weights = layout.weights(w)
    if not large:
        return total([tap_row(i, row) for i, row in enumerate(weights)])
    stacked = layout.apart(tf.stack([tf.stack(row) for row in weights]))
    return _loop(
        len(weights), lambda i: tap_row(i, raw.Unpack(value=tf.gather(stacked, i), num=len(weights[0]), axis=0))
    )


def _loop(count: Any, term: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """The sum of `count` terms, in a loop."""
    start = tf.zeros_like(term(tf.constant(0)))
    _, terms = tf.while_loop(
        lambda i, _: i < count, lambda i, y: (i + 1, y + term(i)), (tf.constant(0), start), maximum_iterations=count
    )
    return terms


def _under(layout: Layout, image: tf.Tensor, dimension: int, walk: _Walk, tap: Any) -> tf.Tensor:
    """The samples along a dimension that a tap meets; the tap may be a loop's counter."""
    begin, sizes = [0] * 4, tf.unstack(tf.shape(image))
    # Where there is no output, nothing is met, and the tap may stand beyond the image.
    begin[dimension] = tf.minimum(walk.origin + walk.advance * tap, sizes[dimension] - walk.reach)
    sizes[dimension] = walk.reach
    # Not strided at once: XLA would ask for a constant begin.
    window = raw.Slice(input=image, begin=tf.stack(begin), size=tf.stack(sizes))
    if walk.step == 1:
        return window
    steps = [1] * 4
    steps[dimension] = walk.step
    return raw.StridedSlice(input=window, begin=[0] * 4, end=tf.stack(sizes), strides=steps)


def _spread(layout: Layout, dy: tf.Tensor, rows: Axis, cols: Axis) -> tf.Tensor:
    """dy with stride - 1 zeros between its samples and zeros around it, in one op: the gradient of a slice."""
    shape, begin, end = tf.unstack(tf.shape(dy)), [0] * 4, tf.unstack(tf.shape(dy))
    strides = [1] * 4
    for at, axis in ((layout.row, rows), (layout.col, cols)):
        ahead = axis.rate * (axis.taps - 1)
        shape[at] = ahead + axis.size + sum(axis.pads)
        begin[at], end[at], strides[at] = ahead, ahead + axis.reach, axis.stride
    return raw.StridedSliceGrad(shape=tf.stack(shape), begin=begin, end=tf.stack(end), strides=strides, dy=dy)
