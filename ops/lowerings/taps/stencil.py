"""Output and input gradient as stencils: each result a sum of taps times shifted samples of an image.

Padding is never materialised. The results are grouped by which taps meet the image and which meet padding
(`geometry.output_runs`, `input_runs`); within a group every tap is one plain slice of the image, which XLA fuses with
the others into one vectorised loop, and the groups are concatenated.
"""

from __future__ import annotations

import tensorflow as tf
from depthwise.ops.geometry import Run, input_runs, output_runs
from depthwise.ops.lowerings.taps.layout import Layout, step_range, total
from depthwise.ops.spec import ConvSpec

raw = tf.raw_ops


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The convolution."""
    layout = Layout(spec, tf.shape(w))
    x, weights = layout.input(x), layout.weights(w)
    return layout.merge(_assemble(layout, x, weights, output_runs(spec.rows), output_runs(spec.cols)))


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The input gradient: one unstrided stencil per phase of the stride, interleaved."""
    layout = Layout(spec, tf.shape(w))
    dy, weights = layout.output(dy), layout.weights(w)
    height, width = spec.rows.stride, spec.cols.stride
    phases = []
    for top in range(height):
        for left in range(width):
            phase = _assemble(layout, dy, weights, input_runs(spec.rows, top), input_runs(spec.cols, left))
            phases.append(tf.reduce_sum(phase, layout.multiplier_axis) if layout.multiplied else phase)
    return _interleave(spec, phases)


def _assemble(
    layout: Layout, image: tf.Tensor, weights: list[list[tf.Tensor]], rows: tuple[Run, ...], cols: tuple[Run, ...]
) -> tf.Tensor:
    """The stencil's value on every pair of a run of rows and a run of columns, put side by side."""
    bands = [_concat([_block(layout, image, weights, r, c) for c in cols], layout.col) for r in rows]
    return _concat(bands, layout.row)


def _block(layout: Layout, image: tf.Tensor, weights: list[list[tf.Tensor]], rows: Run, cols: Run) -> tf.Tensor:
    height, width = rows.stop - rows.start, cols.stop - cols.start
    if not rows.terms or not cols.terms:
        return layout.zeros(image, height, width)
    return total(
        [
            raw.Mul(
                x=layout.cut(image, step_range(top, height, rows.step), step_range(left, width, cols.step)),
                y=weights[i][j],
            )
            for i, top in rows.terms
            for j, left in cols.terms
        ]
    )


def _concat(parts: list[tf.Tensor], axis: int) -> tf.Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis)


def _interleave(spec: ConvSpec, phases: list[tf.Tensor]) -> tf.Tensor:
    """The phases of the input gradient, row phase by row phase, as one image."""
    height, width = spec.rows.stride, spec.cols.stride
    if height == width == 1:
        return phases[0]
    row, col = (1, 2) if spec.data_format == "NHWC" else (2, 3)
    # New axes right after the column and the row: interleaving is then a reshape that moves nothing.
    bands = [tf.stack(phases[top * width : (top + 1) * width], col + 1) for top in range(height)]
    image = tf.stack(bands, row + 1)
    shape = tf.unstack(tf.shape(phases[0]))
    shape[row], shape[col] = shape[row] * height, shape[col] * width
    image = tf.reshape(image, tf.stack(shape))
    end = list(spec.layout(0, spec.rows.size, spec.cols.size, 0))
    whole = sum(1 << axis for axis in range(4) if axis not in (row, col))
    return raw.StridedSlice(input=image, begin=[0] * 4, end=end, strides=[1] * 4, begin_mask=whole, end_mask=whole)
