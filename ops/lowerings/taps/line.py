"""A stencil on all planes of an image at once, in NCHW.

For it to be one pass, of contiguous loads, XLA must have the image in memory, and read it as a line: else it computes
the place of every sample from plane, row and column, by divisions, and vectorises nothing (3x3 on (8,128,56,56): 13 ms,
not 1.2). The line is a reshape, which XLA would make a part

-   of what computes the image, were that not expensive and used twice: hence an image is divided by one (`once`), and
    the line lies in the buffer of that. Arguments of what XLA compiles lie in buffers already.
-   of the stencil, if that did not read it from more than 15 places: hence it is read in several stretches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

import numpy as np
import tensorflow as tf
from depthwise.ops.geometry import ceil_div
from depthwise.ops.lowerings.taps.layout import reused, where
from depthwise.ops.lowerings.taps.walk import Walk
from depthwise.ops.lowerings.total import total

raw = tf.raw_ops

PLACES_FUSED = 15
"""Most places from which a fusion reads what XLA still makes a part of it."""


@dataclass(frozen=True)
class Line:
    """The planes of an image end to end, and how taps walk over each of them.

    Attributes:
      batch, channels: how many planes there are.
      height, width: of a plane.
      rows, cols: how the taps of a filter's column walk over it, and those of a row.
      taps_in_row: how many of these there are.
      is_tap: in which phases those of a column are taps, [taps in a column, phases]. Each row of samples makes as many
        rows of results as there are phases, one after the other; a stencil without phases has one.
      cut, results: how many rows of results are ahead of those that are wanted, and how many these are.
    """

    batch: int
    channels: int
    height: int
    width: int
    rows: Walk
    cols: Walk
    taps_in_row: int
    is_tap: np.ndarray
    cut: int
    results: int

    @property
    def plane(self) -> int:
        """Samples of a plane."""
        return self.height * self.width

    @property
    def planes(self) -> int:
        return self.batch * self.channels

    @cached_property
    def distances(self) -> dict[tuple[int, int], int]:
        """From the first sample of a plane to the one that its first result meets, under each tap (i, j)."""
        row_taps = [i for i, phases in enumerate(self.is_tap) if phases.any()]
        return {
            (i, j): self.rows.at(i) * self.width + self.cols.at(j)
            for i, j in product(row_taps, range(self.taps_in_row))
        }

    @property
    def edge(self) -> int:
        """How many planes at either end have windows that may leave the line."""
        return int(ceil_div(max(1, *map(abs, self.distances.values())), self.plane))

    @property
    def stretches(self) -> int:
        """How many stretches between the edges are read separately."""
        return PLACES_FUSED // len(self.distances) + 1

    @property
    def is_possible(self) -> bool:
        """Whether planes are no smaller than their results, and enough for edges and stretches."""
        is_large = self.rows.reach <= self.height and self.cols.reach <= self.width
        return is_large and self.planes >= 2 * self.edge + self.stretches

    def stencil(self, image: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """For each output of a channel the sum of all taps times the samples they meet.

        Args:
          image: [batch, channels, height, width], in memory.
          w: [taps in a column, phases, taps in a row, channels, M].

        Returns:
          [batch, channels * M, results, columns]
        """
        plane, planes, edge = self.plane, self.planes, self.edge
        *taps, channels, multiplier = w.shape.as_list()
        w = tf.broadcast_to(tf.expand_dims(w, 3), [*taps, self.batch, channels, multiplier])
        w = raw.Transpose(x=tf.reshape(w, [*taps, planes, multiplier]), perm=[0, 2, 3, 4, 1])
        w = w[:, :, :, :, tf.newaxis, :, tf.newaxis]
        line = tf.reshape(image, [planes * plane])
        first = raw.Pad(input=line[: 2 * edge * plane], paddings=[[edge * plane, 0]])
        last = raw.Pad(input=line[-2 * edge * plane :], paddings=[[0, edge * plane]])
        cuts = [int(cut) for cut in np.linspace(edge, planes - edge, self.stretches + 1)]
        results = [
            self._stretch(first, edge * plane, w[:, :, :edge]),
            *(self._stretch(line, start * plane, w[:, :, start:stop]) for start, stop in pairwise(cuts)),
            self._stretch(last, edge * plane, w[:, :, -edge:]),
        ]
        return tf.reshape(tf.concat(results, 0), [self.batch, channels * multiplier, self.results, -1])

    def _stretch(self, line: tf.Tensor, begin: int, w: tf.Tensor) -> tf.Tensor:
        """The results of as many planes as there are weights, the first of which begins at this sample of the line:
        [planes, M, results, columns]."""
        planes, multiplier = w.shape.as_list()[2:4]
        end = [planes, 1, self.rows.reach, 1, self.cols.reach]
        steps = [1, 1, self.rows.step, 1, self.cols.step]

        def term(i: int, j: int) -> tf.Tensor:
            samples = raw.Slice(input=line, begin=[begin + self.distances[i, j]], size=[planes * self.plane])
            samples = tf.reshape(samples, [planes, 1, self.height, 1, self.width])
            samples = raw.StridedSlice(input=samples, begin=[0] * 5, end=end, strides=steps)
            return raw.Mul(x=samples, y=w[i, j])

        rows = self.rows.on_image(len(self.is_tap), self.height)
        cols = [reused(col) for col in self.cols.on_image(self.taps_in_row, self.width)]
        sums = total(
            [
                where(
                    (row[:, np.newaxis] & phases)[:, :, np.newaxis],
                    total([where(col, term(i, j)) for j, col in enumerate(cols)]),
                )
                for i, (row, phases) in enumerate(zip(rows, self.is_tap, strict=True))
                if phases.any()
            ]
        )
        sums = tf.reshape(sums, [planes, multiplier, -1, sums.shape.as_list()[-1]])
        return sums[:, :, self.cut : self.cut + self.results]
