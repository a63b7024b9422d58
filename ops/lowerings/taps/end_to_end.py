"""Output and input gradient in NCHW, for few taps: a stencil on planes that lie end to end in memory.

In NCHW the columns are neighbours in memory, and vectors run along them. To pad an image there takes twice what the
stencil does, for XLA pads element by element, each behind a branch (2.4 ms for (8,128,56,56), and 1.0 for a 3x3
stencil). So nothing is padded here. A plane is one channel of one image, and all planes are read as one line: what a
tap meets stands everywhere at one distance from the result. Where a window leaves its plane it meets the end of another
row, or of the plane before or after; there the product is masked. Only in the first planes and in the last may it leave
the line: these few are padded.

An input gradient is such a stencil on the output gradient. Of a stride, the rows are taken as in `strided`: its phases
are a dimension beside the rows of the output gradient. Beside the columns they would be no vectors: there the output
gradient is spread out by zeros. (`line` has the stencil itself, and what XLA needs to make one pass of it.)
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from depthwise.ops.geometry import ceil_div
from depthwise.ops.lowerings.base import Contraction
from depthwise.ops.lowerings.taps.layout import is_large, shaped, where
from depthwise.ops.lowerings.taps.line import Line
from depthwise.ops.lowerings.taps.once import once
from depthwise.ops.lowerings.taps.strided import Shifts, laid_out
from depthwise.ops.lowerings.taps.walk import Walk, over_input, over_output_grad
from depthwise.ops.spec import FLOATS, ConvSpec

raw = tf.raw_ops

LEAST_WIDTH, MOST_TAPS = 32, 16
"""Fewest columns of the result, and most taps, without strides. Smaller images lie in the cache when they are padded,
and more taps take longer than that. 3x3 on (8,128,56,56) took 3.2 ms and takes 1.5 (2.1 where it computes the image),
on (8,256,28,28) 1.8 either way; 4x4 on (8,64,56,56) took 1.8 and takes 1.3, on (8,192,28,28) 1.7 and would take 1.9."""
LEAST_WIDTH_STRIDED = 7
"""The same of the input gradient of a strided convolution whose windows overlap: 3x3, stride 2, on (8,128,56,56) took
4.0 ms and takes 1.6, 7x7 on (8,96,56,56) 11 and 3.0, 3x3 on (8,960,7,7) 1.0 and 0.9; 2x2 on (8,64,56,56) takes 1.1 and
would take 3.6."""


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor, in_memory: bool) -> tf.Tensor:
    """The convolution, of an input of which it is known whether it lies in a buffer."""
    return shaped(_of_output(spec).stencil(x if in_memory else once(x), w[:, tf.newaxis]), spec.output_shape)


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, in_memory: bool) -> tf.Tensor:
    """The input gradient, where channels have one output each, of such an output gradient."""
    line = _of_input_grad(spec)
    if spec.is_strided:
        dy, in_memory = _spread(spec, dy, line), False
    w = tf.reshape(w, [spec.rows.taps, spec.cols.taps, spec.channels])
    w = laid_out(w, spec.channels, (spec.rows.rate, 1), [line.is_tap.size, spec.cols.taps])
    w = tf.reshape(w, [*line.is_tap.shape, spec.cols.taps, spec.channels, 1])
    return shaped(line.stencil(dy if in_memory else once(dy), w), spec.input_shape)


def pays(spec: ConvSpec, contraction: Contraction) -> bool:
    """Whether output or input gradient can be formed so, and in less time than otherwise."""
    if spec.data_format != "NCHW" or spec.dtype not in FLOATS or spec.may_be_empty or spec.far_apart:
        return False
    if contraction == "output":
        # Columns a stride apart are no vectors, and rows that are not padded need no masks.
        is_padded = any(axis.pads != (0, 0) for axis in (spec.rows, spec.cols))
        is_quicker = is_padded and spec.cols.stride == 1 and spec.cols.output >= LEAST_WIDTH and spec.taps <= MOST_TAPS
        return is_quicker and _of_output(spec).is_possible
    if spec.multiplier != 1:
        return False
    if spec.is_strided:
        do_overlap = spec.taps > spec.rows.stride * spec.cols.stride
        is_quicker = do_overlap and not is_large(spec) and spec.cols.size >= LEAST_WIDTH_STRIDED
    else:
        is_quicker = spec.cols.size >= LEAST_WIDTH and spec.taps <= MOST_TAPS
    return is_quicker and _of_input_grad(spec).is_possible


def _of_output(spec: ConvSpec) -> Line:
    rows, cols = map(over_input, (spec.rows, spec.cols))
    planes = spec.batch, spec.channels, spec.rows.size, spec.cols.size
    is_tap = np.ones([spec.rows.taps, 1], bool)
    return Line(*planes, rows, cols, spec.cols.taps, is_tap, 0, spec.rows.output)  # type: ignore[arg-type] # known


def _of_input_grad(spec: ConvSpec) -> Line:
    """By rows, as `strided` has it: dx[m, r] is the sum over q of dy[m - q] * w[stride*q + r], where there is such a
    tap. By columns, as over any output gradient."""
    rows, cols = spec.rows, spec.cols
    # The first input is in phase `cut` of m = `begin`.
    begin, cut = divmod(rows.pads[0], rows.stride)
    length = ceil_div(cut + rows.size, rows.stride)
    height, width = rows.output, cols.output
    if spec.is_strided:
        height, width = max(height, length), max(width, ceil_div(cols.size, cols.stride)) * cols.stride
    planes = spec.batch, spec.channels, height, width
    walks = Walk(begin, -1, length, 1), over_output_grad(cols)
    return Line(*planes, *walks, cols.taps, Shifts(rows).is_tap, cut, rows.size)  # type: ignore[arg-type] # known


def _spread(spec: ConvSpec, dy: tf.Tensor, line: Line) -> tf.Tensor:
    """The output gradient with zeros between its columns, and around it as far as the planes of a line go."""
    stride = spec.cols.stride
    missing = line.height - spec.rows.output, line.width // stride - spec.cols.output
    if any(missing):
        dy = raw.Pad(input=dy, paddings=[[0, 0], [0, 0], *([0, samples] for samples in missing)])
    if stride == 1:
        return dy
    # Repeated and selected, which is vectorised; a pad between samples, or the gradient of a slice, is not.
    spread = where(np.arange(stride) == 0, tf.expand_dims(dy, 4))
    return tf.reshape(spread, [spec.batch, spec.channels, line.height, line.width])
