"""The filter gradient: for each tap, the correlation of the input with the output gradient."""

from __future__ import annotations

import tensorflow as tf
from depthwise.ops.lowerings.taps.layout import Layout, step_range
from depthwise.ops.spec import ConvSpec

raw = tf.raw_ops


def filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The filter gradient, tap by tap, over the outputs in whose windows the tap lies on the input."""
    layout = Layout(spec, sizes)
    x, dy = layout.input(x), layout.output(dy)
    summed = [axis for axis in range(layout.rank) if axis in (0, layout.row, layout.col)]
    taps = []
    for i in range(spec.rows.taps):
        top, bottom = spec.rows.outputs_of_tap(i)
        for j in range(spec.cols.taps):
            left, right = spec.cols.outputs_of_tap(j)
            rows = step_range(spec.rows.input_of_tap(i, top), bottom - top, spec.rows.stride)
            cols = step_range(spec.cols.input_of_tap(j, left), right - left, spec.cols.stride)
            if bottom == top or right == left:
                taps.append(tf.zeros(tf.stack([layout.channels, layout.multiplier]), x.dtype))
                continue
            product = raw.Mul(x=layout.cut(x, rows, cols), y=layout.cut(dy, (top, bottom, 1), (left, right, 1)))
            tap = tf.reduce_sum(product, summed)
            taps.append(tap if layout.multiplied else tap[:, tf.newaxis])
    return tf.reshape(tf.stack(taps), sizes)
