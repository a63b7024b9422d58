"""Output and input gradient of large NHWC images that a filter leaves as large: a stencil on rows that lie end to end.

A large filter makes too many regions to write out (`stencil`), and to pad the image in memory takes as much of it as
the image. A training step of 7x7 on (8,56,56,96) took 94 MiB, where images and their gradients alone are 37, and takes
46. So nothing is padded here. All rows of all images are read as one line of columns: what a tap meets stands
everywhere at one distance from the result. Where a window leaves its image it meets another row, or another image;
there the product is masked. Only in the first rows and in the last may it leave the line: these few are padded, and are
a stencil of their own.

It takes as long as the padding and its stencil did or less, and longer to compile: 0.7 s and not 0.3 for 7x7, 0.4 and
not 0.2 for 5x5.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from depthwise.ops.geometry import ceil_div
from depthwise.ops.lowerings.base import Sizes
from depthwise.ops.lowerings.taps.layout import Layout, reused, shaped, spare_channels, where
from depthwise.ops.lowerings.taps.line import PLACES_FUSED
from depthwise.ops.lowerings.taps.once import once
from depthwise.ops.lowerings.taps.walk import Walk, over_input, over_output_grad
from depthwise.ops.lowerings.total import total
from depthwise.ops.spec import FLOATS, ConvSpec

raw = tf.raw_ops

QUICKER_TAPS = 36
"""Most taps with which it is quicker than padding. 5x5 on (8,14,14,480) took 1.6 ms and takes 1.3; 7x7 on (8,56,56,96)
takes as long as before."""
LEAST_BYTES_QUICKER, LEAST_BYTES = 3 * 2**19, 2**22
"""Of an image tensor, with so few taps and with more. 5x5 on (4,7,7,480) is no quicker, and in steps of what is smaller
than four mebibytes the filter gradient takes more memory than any padded image."""


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The convolution."""
    return shaped(_stencil(spec, x, w, *map(over_input, (spec.rows, spec.cols))), spec.output_shape)


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """The input gradient: what a tap meets lies as far behind as it lies ahead in the convolution."""
    return shaped(_stencil(spec, dy, w, *map(over_output_grad, (spec.rows, spec.cols))), spec.input_shape)


def pays(spec: ConvSpec) -> bool:
    """Whether output and input gradient can be formed so, and it is worth its compilation."""
    if spec.data_format != "NHWC" or spec.dtype not in FLOATS or spec.multiplier != 1 or spec.is_strided:
        return False
    batch, height, width, channels = spec.batch, spec.rows.size, spec.cols.size, spec.channels
    if (spec.rows.output, spec.cols.output) != (height, width) or spec.may_be_empty:
        return False
    # XLA has the line in memory only where it is read from many places.
    if spec.taps <= PLACES_FUSED or spare_channels(spec) or batch * height < 2 * _edge(spec):
        return False
    least = LEAST_BYTES_QUICKER if spec.taps <= QUICKER_TAPS else LEAST_BYTES
    return bool(batch * height * width * channels * tf.as_dtype(spec.dtype).size >= least)


def _edge(spec: ConvSpec) -> int:
    """How many rows at either end have windows that may leave the line."""
    width = spec.cols.size
    return int(ceil_div(max(spec.rows.pads) * width + max(spec.cols.pads), width))


def _stencil(spec: ConvSpec, image: tf.Tensor, w: tf.Tensor, rows: Walk, cols: Walk) -> tf.Tensor:
    """The sum over all taps of tap times the samples it meets."""
    batch, height, width, channels = image.shape.as_list()
    edge, count = _edge(spec), batch * height
    layout = Layout(spec, tf.shape(w))
    weights = layout.weights(w)
    on_rows = rows.on_image(spec.rows.taps, height)
    on_cols = [reused(on_col[:, np.newaxis]) for on_col in cols.on_image(spec.cols.taps, width)]

    def stretch(line: tf.Tensor, results: np.ndarray) -> tf.Tensor:
        """Of lines [lines, columns, channels], the results of these rows [lines, rows], which begin `edge` rows on."""
        lines, many = results.shape
        met, in_rows = layout.shape(lines, many * width, channels), layout.shape(lines * many, width, channels)

        def product(i: int, j: int) -> tf.Tensor:
            begin = [0, (edge + rows.at(i)) * width + cols.at(j), 0]
            samples = tf.reshape(raw.Slice(input=line, begin=begin, size=met), in_rows)
            return raw.Mul(x=samples, y=weights[i][j])

        def tap_row(i: int) -> tf.Tensor:
            return total([where(on_col, product(i, j)) for j, on_col in enumerate(on_cols)])

        here = on_rows[:, results.ravel() % height, np.newaxis, np.newaxis]
        return total([where(on_row, tap_row(i)) for i, on_row in enumerate(here)])

    line, beyond = tf.reshape(image, [1, count * width, channels]), edge * width
    first = raw.Pad(input=line[:, : 2 * beyond], paddings=[[0, 0], [beyond, 0], [0, 0]])
    last = raw.Pad(input=line[:, -2 * beyond :], paddings=[[0, 0], [0, beyond], [0, 0]])
    numbers = np.arange(count)
    ends = once(stretch(tf.concat([first, last], 0), np.stack([numbers[:edge], numbers[-edge:]])))
    middle = stretch(line, numbers[np.newaxis, edge:-edge])
    return tf.reshape(tf.concat([ends[:edge], middle, ends[edge:]], 0), [batch, height, width, channels])
