"""Output and input gradient where the filter covers the whole image from everywhere: convolution commutes.

Most taps of a 27x27 filter on a 14x14 image meet padding: of the 27 in a row, 14 meet the image. If every output has
every input sample in its window, then take the image for the filter, and the filter for the image:

    output[n, p, q, c] = sum over r, s of x[n, r, s, c] * w[r + before - stride*p, s + before - stride*q, c]

These are the 196 terms that are not padding, of 729. So it is with the input gradient, which sums over outputs. (Two of
RepLKNet's four filters have just this size: 13x13 on 7x7, and 27x27 on 14x14, which takes 18 ms on (8,14,14,512), where
its 729 taps took 51.)
"""

from __future__ import annotations

import tensorflow as tf
from depthwise.ops.geometry import Axis
from depthwise.ops.lowerings.base import Sizes
from depthwise.ops.lowerings.taps.layout import Layout, shaped
from depthwise.ops.lowerings.taps.padded import sum_of_taps
from depthwise.ops.lowerings.taps.walk import Walk
from depthwise.ops.sizes import sizes_of
from depthwise.ops.spec import ConvSpec

raw = tf.raw_ops


def is_covered(spec: ConvSpec) -> bool:
    """Whether all sizes are known, and every output has every input in its window."""
    return spec.known and _is_covered(spec.rows) and _is_covered(spec.cols)


def _is_covered(axis: Axis) -> bool:
    before = axis.pads[0]
    first, last = before - axis.stride * (axis.output - 1), axis.size - 1 + before
    return bool(axis.rate == 1 and axis.output > 0 and axis.size > 0 and first >= 0 and last < axis.taps)


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The convolution. Both reversed, input sample r meets the filter at taps - size - before + r + stride*p."""
    layout = Layout(spec, tf.shape(w))
    walks = [Walk(a.taps - a.size - a.pads[0], 1, a.reach, a.stride) for a in (spec.rows, spec.cols)]
    return shaped(_sum(layout, tf.reverse(w, [0, 1]), layout.repeat(x), *walks), spec.output_shape)


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """The input gradient. Reversed, dy's sample p meets the filter at before - stride*(output - 1 - p) + r."""
    layout = Layout(spec, tf.shape(w))
    walks = [Walk(a.pads[0] - a.stride * (a.output - 1), a.stride, a.size, 1) for a in (spec.rows, spec.cols)]
    return shaped(layout.sum_repeated(_sum(layout, w, dy, *walks)), spec.input_shape)


def _sum(layout: Layout, w: tf.Tensor, image: tf.Tensor, rows: Walk, cols: Walk) -> tf.Tensor:
    """The stencil on the filter whose taps are the image, reversed."""
    spec, spare = layout.spec, layout.spare
    filter_image = tf.reshape(w, layout.shape(1, spec.rows.taps, spec.cols.taps, -1))
    if spec.data_format == "NCHW":
        filter_image = raw.Transpose(x=filter_image, perm=[0, 3, 1, 2])
    if spare:
        # In memory, or XLA sees that nothing reads the zeros.
        filter_image, image = (layout.in_buffer(layout.with_spare(tensor, spare)) for tensor in (filter_image, image))
        image = image[:, :, :-1]
    taps = tf.reverse(raw.Transpose(x=image, perm=[layout.row, layout.col, 0, layout.channel]), [0, 1])
    height, width, batch, channels = sizes_of(taps)
    taps = tf.reshape(taps, layout.shape(height, width, *spec.in_order(batch, 1, 1, channels)))
    return sum_of_taps(layout, filter_image, taps, rows, cols, spare)
