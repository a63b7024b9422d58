"""Output and input gradient in NCHW, for few taps: a stencil on planes that lie end to end in memory.

In NCHW the columns are neighbours in memory, and vectors run along them. To pad an image there takes twice what the
stencil does, for XLA pads element by element, each behind a branch (2.4 ms for (8,128,56,56), and 1.0 for a 3x3
stencil). So nothing is padded here. A plane is one channel of one image, and all planes are read as one line: what a
tap meets stands everywhere at one distance from the result. Where a window leaves its plane it meets the end of another
row, or of the plane before or after; there the product is masked. Only in the first planes and in the last may it leave
the line: these few are padded.

For this to be one pass, of contiguous loads, XLA must have the image in memory, and read it as a line: else it computes
the place of every sample from plane, row and column, by divisions, and vectorises nothing (13 ms, not 1.2). The line is
a reshape, which XLA would make a part

-   of what computes the image, were that not expensive and used twice: hence a division by one (`once`), in whose
    buffer the line lies. Arguments of what XLA compiles lie in buffers already.
-   of the stencil, if that did not read it from more than 15 places: hence it is read in several stretches.

The input gradient of a strided convolution is that of one without strides, the output gradient spread out by zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import tensorflow as tf
from depthwise.ops.geometry import Axis, ceil_div
from depthwise.ops.lowerings.base import Contraction
from depthwise.ops.lowerings.taps.layout import is_large, shaped, total
from depthwise.ops.lowerings.taps.once import once
from depthwise.ops.lowerings.taps.padded import Walk
from depthwise.ops.spec import FLOATS, ConvSpec

raw = tf.raw_ops

PLACES_FUSED = 15
"""Most places from which a fusion reads what XLA still makes a part of it."""
LEAST_WIDTH, MOST_TAPS = 32, 16
"""Fewest columns of the result, and most taps, without strides. Smaller images lie in the cache when they are padded,
and more taps take longer than that. 3x3 on (8,128,56,56) took 3.2 ms and takes 1.5 (2.1 where it computes the image),
on (8,256,28,28) 1.8 either way; 4x4 on (8,64,56,56) took 1.8 and takes 1.3, on (8,192,28,28) 1.7 and would take 1.9."""
LEAST_WIDTH_SPREAD = 8
"""The same of a strided convolution, whose windows overlap: 3x3, stride 2, on (8,128,56,56) took 4.0 ms and takes
2.6, 7x7 on (8,96,56,56) 15 and 6.7; 3x3 on (8,960,7,7) took 1.3 and would take 1.4, 4x4, stride 4, on (8,96,56,56) 2.0
and 2.8."""


def output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor, in_memory: bool) -> tf.Tensor:
    """The convolution, of an input of which it is known whether it lies in a buffer."""
    return shaped(_of_output(spec).stencil(x if in_memory else once(x), w), spec.output_shape)


def input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, in_memory: bool) -> tf.Tensor:
    """The input gradient, where channels have one output each, of such an output gradient."""
    if spec.is_strided:
        dy, in_memory = _spread(spec, dy), False
    return shaped(_of_input_grad(spec).stencil(dy if in_memory else once(dy), w), spec.input_shape)


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
        is_quicker = do_overlap and not is_large(spec) and spec.cols.size >= LEAST_WIDTH_SPREAD
    else:
        is_quicker = spec.cols.size >= LEAST_WIDTH and spec.taps <= MOST_TAPS
    return is_quicker and _of_input_grad(spec).is_possible


def _of_output(spec: ConvSpec) -> _Line:
    rows, cols = (Walk(-axis.pads[0], axis.rate, axis.reach, axis.stride) for axis in (spec.rows, spec.cols))
    return _Line(spec, spec.rows.size, spec.cols.size, rows, cols)


def _of_input_grad(spec: ConvSpec) -> _Line:
    """Input p takes part in output i through tap t where stride*i = p + before - rate*t."""
    rows, cols = (Walk(axis.pads[0], -axis.rate, axis.size, 1) for axis in (spec.rows, spec.cols))
    height, width = (axis.stride * _samples_to_spread(axis) for axis in (spec.rows, spec.cols))
    return _Line(spec, height, width, rows, cols)


@dataclass(frozen=True)
class _Line:
    """The planes of an image end to end, and how the taps walk over each of them."""

    spec: ConvSpec
    height: int
    width: int
    rows: Walk
    cols: Walk

    @property
    def plane(self) -> int:
        """Samples of a plane."""
        return self.height * self.width

    @property
    def planes(self) -> int:
        return int(self.spec.batch * self.spec.channels)  # type: ignore[operator]

    def distance(self, i: int, j: int) -> int:
        """From the first sample of a plane to the one that its first result meets under tap (i, j)."""
        row, col = self.rows.origin + self.rows.advance * i, self.cols.origin + self.cols.advance * j
        return int(row * self.width + col)

    @property
    def edge(self) -> int:
        """How many planes at either end have windows that may leave the line."""
        last_row, last_col = self.spec.rows.taps - 1, self.spec.cols.taps - 1
        furthest = max(abs(self.distance(i, j)) for i in (0, last_row) for j in (0, last_col))
        return int(ceil_div(max(1, furthest), self.plane))

    @property
    def stretches(self) -> int:
        """How many stretches between the edges are read separately."""
        return PLACES_FUSED // self.spec.taps + 1

    @property
    def is_possible(self) -> bool:
        """Whether planes are no smaller than their results, and enough for edges and stretches."""
        is_large = self.rows.reach <= self.height and self.cols.reach <= self.width
        return bool(is_large and self.planes >= 2 * self.edge + self.stretches)

    def stencil(self, image: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """For each output of a channel the sum of all taps times the samples they meet: [batch, C*M, rows, columns]."""
        spec, plane, planes, edge = self.spec, self.plane, self.planes, self.edge
        taps, channel = [spec.rows.taps, spec.cols.taps], [spec.channels, spec.multiplier]
        w = tf.broadcast_to(tf.reshape(w, [*taps, 1, *channel]), [*taps, spec.batch, *channel])
        w = tf.reshape(w, [*taps, planes, spec.multiplier, 1, 1])
        line = tf.reshape(image, [planes * plane])
        first = raw.Pad(input=line[: 2 * edge * plane], paddings=[[edge * plane, 0]])
        last = raw.Pad(input=line[-2 * edge * plane :], paddings=[[0, edge * plane]])
        cuts = [int(cut) for cut in np.linspace(edge, planes - edge, self.stretches + 1)]
        results = [
            self._stretch(first, edge * plane, w[:, :, :edge]),
            *(self._stretch(line, start * plane, w[:, :, start:stop]) for start, stop in pairwise(cuts)),
            self._stretch(last, edge * plane, w[:, :, -edge:]),
        ]
        height, width = (ceil_div(walk.reach, walk.step) for walk in (self.rows, self.cols))
        return tf.reshape(tf.concat(results, 0), [spec.batch, -1, height, width])

    def _stretch(self, line: tf.Tensor, begin: int, w: tf.Tensor) -> tf.Tensor:
        """The results of as many planes as there are weights, [planes, M, rows, columns], the first of which begins at
        this sample of the line."""
        planes = w.shape[2]
        end = [planes, 1, self.rows.reach, self.cols.reach]
        steps = [1, 1, self.rows.step, self.cols.step]

        def product(i: int, j: int) -> tf.Tensor:
            samples = raw.Slice(input=line, begin=[begin + self.distance(i, j)], size=[planes * self.plane])
            samples = tf.reshape(samples, [planes, 1, self.height, self.width])
            samples = raw.StridedSlice(input=samples, begin=[0] * 4, end=end, strides=steps)
            return raw.Mul(x=samples, y=w[i, j])

        rows = _masks(self.rows, self.spec.rows.taps, self.height)
        cols = _masks(self.cols, self.spec.cols.taps, self.width)
        return total(
            [
                _where(row[:, np.newaxis], total([_where(col, product(i, j)) for j, col in enumerate(cols)]))
                for i, row in enumerate(rows)
            ]
        )


def _masks(walk: Walk, taps: int, size: int) -> list[np.ndarray]:
    """For each tap, which of its samples are on the plane."""
    samples = walk.origin + walk.advance * np.arange(taps)[:, np.newaxis] + np.arange(0, walk.reach, walk.step)
    return list((samples >= 0) & (samples < size))


def _where(mask: np.ndarray, values: tf.Tensor) -> tf.Tensor:
    """Zero where masked. (Selected, not multiplied: what is not finite must not spread.)"""
    if mask.all():
        return values
    return raw.SelectV2(condition=mask, t=values, e=tf.zeros([], values.dtype))


def _spread(spec: ConvSpec, dy: tf.Tensor) -> tf.Tensor:
    """The output gradient with zeros between its samples, and after the last as far as the input goes."""
    axes = spec.rows, spec.cols
    (height, width), (row_step, col_step) = map(_samples_to_spread, axes), (axis.stride for axis in axes)
    missing = height - spec.rows.output, width - spec.cols.output
    if any(missing):
        dy = raw.Pad(input=dy, paddings=[[0, 0], [0, 0], *([0, samples] for samples in missing)])
    # Repeated and selected, which is vectorised; a pad between samples, or the gradient of a slice, is not.
    is_sample = np.zeros([row_step, 1, col_step], bool)
    is_sample[0, 0, 0] = True
    samples = tf.reshape(dy, [spec.batch, spec.channels, height, 1, width, 1])
    spread = raw.SelectV2(condition=is_sample, t=samples, e=tf.zeros([], dy.dtype))
    return tf.reshape(spread, [spec.batch, spec.channels, height * row_step, width * col_step])


def _samples_to_spread(axis: Axis) -> int:
    """As many samples of the output gradient as, spread out by a stride, reach as far as the input."""
    return int(axis.output if axis.stride == 1 else max(axis.output, ceil_div(axis.size, axis.stride)))
