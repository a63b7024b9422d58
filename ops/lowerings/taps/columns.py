"""How the filter gradient cuts input and output gradient into columns, whose products it sums.

Both are cut along their columns into slices of one width. A tap multiplies slices of the one with slices of the other
and sums the products, column by column of the slices: as many terms as there are slices. Few terms leave much to sum
in stage 2, and many take long to compile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf
from depthwise.ops.geometry import Axis, at_least_zero, ceil_div
from depthwise.ops.lowerings.taps.layout import Layout, lines_held, where
from depthwise.ops.lowerings.total import total
from depthwise.ops.sizes import sizes_of

raw = tf.raw_ops

Place: TypeAlias = "int | tuple[int, int]"
"""Where a slice begins: a column; or, where sizes are unknown, (number of the slice, tap)."""
Slice: TypeAlias = Callable[[Place], tf.Tensor]
"""From a place to the slice of an image that begins there, in the shape of the products."""

COLUMN_TERMS, MORE_COLUMN_TERMS = 14, 28
"""Most terms of one sum over columns: compile time grows with them. Wider images add up several columns at once."""
MOST_PARTIAL_SUMS = {"NHWC": 2**22, "NCHW": 2**20}
"""Most partial sums, where more terms could make them fewer. 7x7 on (8,56,56,96): with 28 terms 7.3 ms, 19 MiB and
3.2 s to compile; with 14 terms 13 ms, 64 MiB and 1.8 s. (What takes over 32 MiB, glibc gives back to the system and
asks for anew in every call, page by page. A crowded cache costs more: 7x7 on (8,28,28,1024) takes 108 ms with 28 terms,
and 47 with 7 and four times the memory.) In NCHW there are copies of both images beside them: 3x3 on (8,128,56,56)
took 18 ms, and takes 6.2."""
EVEN_TERMS = 8
"""Terms of one sum where the number of columns is unknown: one in eight is empty for 7,
14 and 28 columns, none for 56 and 112."""


class Pair(NamedTuple):
    """Slices of input and output gradient that are multiplied, and which of their columns count: [width, 1], None if
    all do."""

    x: Place
    dy: Place
    counts: tf.Tensor | None


class Columns:
    """Input and output gradient (NHWC), cut along the columns into slices of one width."""

    width: Any

    def __init__(self, layout: Layout, x: tf.Tensor, dy: tf.Tensor, axis: Axis) -> None:
        self.layout, self.x, self.dy, self.axis = layout, x, dy, axis
        self.rows_of_x, self.rows_of_dy = ((0, sizes_of(image)[1], 1) for image in (x, dy))  # all of them

    def pairs(self, tap: int) -> list[Pair]:
        """The slices whose products a tap sums."""
        raise NotImplementedError

    def column_of_x(self, place: Any) -> Any:
        """The column of the input at a place."""
        return place

    def column_of_dy(self, place: Any) -> Any:
        """The column of the output gradient at a place."""
        return place

    def sum(self, tap: int, x_slice: Slice, dy_slice: Slice) -> tf.Tensor:
        """Stage 1 for one tap: the sum of the products of its pairs of slices."""
        terms = []
        for pair in self.pairs(tap):
            product = raw.Mul(x=x_slice(pair.x), y=dy_slice(pair.dy))
            terms.append(product if pair.counts is None else where(pair.counts, product))
        if not terms:
            return tf.zeros_like(raw.Mul(x=x_slice(0), y=dy_slice(0)))
        # Each tap begins elsewhere. Where all taps meet all outputs, their loops would else begin with the same loads,
        # which LLVM hoists out of the branches between the taps, and then vectorises none of them.
        first = tap * len(terms) // self.axis.taps
        terms = terms[first:] + terms[:first]
        # In four chains, which a processor can add up side by side.
        return total([total(terms[k::4]) for k in range(min(4, len(terms)))])

    def cut_x(self, place: Place) -> tf.Tensor:
        """[batch, size, width, channels]"""
        return self.layout.cut(self.x, self.rows_of_x, (self.column_of_x(place), self.width, self.axis.stride))

    def cut_dy(self, place: Place) -> tf.Tensor:
        """For all tap rows: [batch, outputs, 1, width, channels]."""
        dy = self.layout.cut(self.dy, self.rows_of_dy, (self.column_of_dy(place), self.width, 1))
        batch, height, width, channels = sizes_of(dy)
        return tf.reshape(dy, self.layout.shape(batch, height, 1, width, channels))


class KnownColumns(Columns):
    """As many slices as the columns want, of outputs that lie on the input: padding costs nothing."""

    def __init__(self, layout: Layout, x: tf.Tensor, dy: tf.Tensor, rows: Axis, most_sums: int) -> None:
        """In as many slices as there are COLUMN_TERMS, or MORE_COLUMN_TERMS where partial sums exceed `most_sums`; in
        fewer where so many would crowd the cache, whatever memory that takes. Where some tap covers fewer columns than
        a slice then has, slices are as narrow as that."""
        super().__init__(layout, x, dy, layout.spec.cols)
        axis = self.axis
        covers = [stop - start for start, stop in map(axis.outputs_of_tap, range(axis.taps)) if stop > start]
        width = ceil_div(axis.output, COLUMN_TERMS)
        batch, _, _, channels = (size or 1 for size in dy.shape.as_list())
        if batch * partial_sums(rows, axis, width, channels) > most_sums:
            width = ceil_div(axis.output, MORE_COLUMN_TERMS)
        column_bytes = channels * dy.dtype.size
        # A term of a sum loads a line of the input and one of the output gradient. Once there are more terms than the
        # cache holds lines, nearly every load misses: the filter gradient of 3x3 on (8,56,56,256) took 9.5 ms with 14
        # terms 4096 bytes apart, and takes 6.5 with 12 terms 5120 apart; 5x5 on (8,28,28,512) took 15 with 28 terms
        # 2048 apart, and takes 7.9 with 10 terms 6144 apart. (Of the input alone, lines that a stride brings together
        # do no harm: 3x3, stride 2, on (8,56,56,256).)
        while ceil_div(axis.output, width) > lines_held(width * column_bytes):
            width += 1
        self.width = min([width, *covers])

    def pairs(self, tap: int) -> list[Pair]:
        """Of the outputs whose window has the tap on the input. Where their number is no multiple of the width, the
        last slice overlaps the one before it, and only its last columns count."""
        start, stop = self.axis.outputs_of_tap(tap)
        begins = list(range(start, stop - self.width + 1, self.width))
        pairs = [Pair(self.axis.input_of_tap(tap, begin), begin, None) for begin in begins]
        over = (stop - start) % self.width
        if over:
            begin = stop - self.width
            counts = tf.constant(np.arange(self.width)[:, np.newaxis] >= self.width - over)
            pairs.append(Pair(self.axis.input_of_tap(tap, begin), begin, counts))
        return pairs


def partial_sums(rows: Axis, cols: Axis, width: int, channels: int) -> int:
    """How many sums stage 1 leaves of one image, cut into slices of this width."""
    return int(rows.output * rows.taps * cols.taps * width * channels)


class EvenColumns(Columns):
    """EVEN_TERMS slices, of as many columns as that takes, whatever the size turns out to be. The input is padded."""

    def __init__(self, layout: Layout, x: tf.Tensor, dy: tf.Tensor) -> None:
        super().__init__(layout, x, dy, layout.spec.cols)
        outputs, self.size, (self.before, _) = self.axis.output, self.axis.size, self.axis.pads
        at_least_one = at_least_zero(outputs - 1) + 1  # so that there are slices where there is no output
        self.width = ceil_div(at_least_one, EVEN_TERMS)
        ends = self.width * np.arange(1, EVEN_TERMS + 1, dtype=np.int32)
        begins = tf.minimum(ends, at_least_one) - self.width
        self.begins = tf.unstack(begins)
        # At once: a few nodes, not a few for each slice and tap.
        on_x = self.axis.stride * begins[:, tf.newaxis] + [self.axis.rate * tap for tap in range(self.axis.taps)]
        self.begins_on_x = [tf.unstack(taps) for taps in tf.unstack(on_x)]
        self.outputs = begins[:, tf.newaxis, tf.newaxis] + tf.range(self.width)[:, tf.newaxis]
        # Past the last output, slices overlap those before them.
        are_new = self.outputs >= (ends - self.width)[:, tf.newaxis, tf.newaxis]
        self.are_new_outputs = are_new & (self.outputs < outputs)

    def pairs(self, tap: int) -> list[Pair]:
        """All slices; of them, the columns of new outputs in whose window the tap lies on the input."""
        sample = self.axis.stride * self.outputs + (self.axis.rate * tap - self.before)
        counts = self.are_new_outputs & (sample >= 0) & (sample < self.size)
        return [Pair((k, tap), (k, 0), each) for k, each in enumerate(tf.unstack(counts))]

    def column_of_x(self, place: Any) -> Any:
        k, tap = place
        return self.begins_on_x[k][tap]

    def column_of_dy(self, place: Any) -> Any:
        return self.begins[place[0]]


def padded_evenly(layout: Layout, x: tf.Tensor, dy: tf.Tensor, rows: tuple[Any, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """Images for `EvenColumns`: their columns padded, the rows of the input by (before, after) samples.

    Where there is no output there is none of dy to make a slice of, but for one that is made up here.
    """
    axis = layout.spec.cols
    made_up = at_least_zero(1 - axis.output)
    return layout.pad(x, rows, axis.pads_for_a_window), layout.pad(dy, (0, 0), (0, made_up))


def columns_of(layout: Layout, x: tf.Tensor, dy: tf.Tensor, rows: Axis, most_sums: int) -> Columns:
    """The columns of images whose rows are met as `rows` says, cut as their sizes allow."""
    if layout.spec.known:
        return KnownColumns(layout, x, dy, rows, most_sums)
    return EvenColumns(layout, x, dy)
