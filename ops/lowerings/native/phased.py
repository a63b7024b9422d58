"""Any convolution on any build: TensorFlow's plain kernel over interleaved subsamples of the input.

The op SpaceToBatchND takes an image apart into combs (every rate-th sample) along the batch, in one pass; strided
slices would take four times as long. BatchToSpaceND, its transpose, puts one together. Where there is no stride, the
combs are the phases, and the three ops are the pattern that LiteRT converts to one dilated convolution, if the padding
is SpaceToBatchND's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf
from depthwise.ops.geometry import Axis, Phases, at_least_zero, ceil_div, common_phases
from depthwise.ops.lowerings.native.kernels import Plain, cut, integers
from depthwise.ops.lowerings.total import total
from depthwise.ops.spec import ConvSpec

raw = tf.raw_ops


@dataclass(frozen=True)
class Split:
    """An axis cut into phases, each of `length` input samples and `outputs` outputs."""

    axis: Axis
    phases: Phases
    outputs: Any
    length: Any

    @classmethod
    def of(cls, axis: Axis, phases: Phases) -> Split:
        # One output at least: lengths stay positive where, at run time, the output turns out to be empty.
        outputs = at_least_zero(ceil_div(axis.output, phases.count) - 1) + 1
        length = outputs if phases.padding == "SAME" else phases.stride_within * (outputs - 1) + axis.taps
        return cls(axis, phases, outputs, length)

    @property
    def count(self) -> int:
        return self.phases.count

    @property
    def phase(self) -> Axis:
        """The axis that every phase is."""
        return Axis(self.length, self.axis.taps, self.phases.stride_within, 1, self.phases.padding)

    @property
    def before(self) -> Any:
        """Padding before the axis, where it is not the kernel that pads."""
        return 0 if self.phases.padding == "SAME" else self.axis.pads[0]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Of each phase, the comb that it lies in, and the sample of the comb that it begins with."""
        begins = [self.axis.stride * phase for phase in range(self.count)]
        return [(begin % self.axis.rate, begin // self.axis.rate) for begin in begins]

    @property
    def are_combs(self) -> bool:
        """Whether the phases are the combs, each whole, in their order."""
        return self.axis.stride == 1 and self.count == self.axis.rate

    @property
    def comb(self) -> Any:
        """The length of a comb: enough for the last phase, and for the whole input."""
        last = self.places[-1][1] + self.length
        return last + at_least_zero(ceil_div(self.before + self.axis.size, self.axis.rate) - last)

    @property
    def pads(self) -> tuple[Any, Any]:
        """Padding under which all combs are of this length."""
        return self.before, self.axis.rate * self.comb - self.axis.size - self.before

    @property
    def surplus(self) -> Any:
        """Outputs of the phases beyond those of the axis."""
        return self.count * self.outputs - self.axis.output


@dataclass(frozen=True)
class Phased:
    """The plain kernel, once, over phases of the input that are stacked along the batch.

    Attributes:
      pads_first: whether, in a graph, the input is padded before it is taken apart even if the kernel could pad its
        phases.
    """

    pads_first: bool = False

    def output(self, spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        splits = self._splits(spec, tf.shape(x), tf.shape(w))
        return self._interleave(splits, Plain().output(self._within(spec, splits), self._gather(splits, x), w))

    def input_grad(self, spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        rows, cols = splits = self._splits(spec, sizes, tf.shape(w))
        phase_sizes = tf.stack([rows.count * cols.count * sizes[0], rows.length, cols.length, sizes[3]])
        dx = Plain().input_grad(self._within(spec, splits), w, self._deinterleave(splits, dy), phase_sizes)
        return self._scatter(splits, dx)

    def filter_grad(self, spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        splits = self._splits(spec, tf.shape(x), sizes)
        within = self._within(spec, splits)
        return Plain().filter_grad(within, self._gather(splits, x), self._deinterleave(splits, dy), sizes)

    def pads(self, spec: ConvSpec) -> tuple[tuple[int, int], tuple[int, int]]:
        """The padding (before, after) of rows and columns of known size that is done in memory."""
        rows, cols = self._splits(spec, (), ())
        return rows.pads, cols.pads

    def _splits(self, spec: ConvSpec, input_sizes: Any, filter_sizes: Any) -> tuple[Split, Split]:
        phases = common_phases(spec.rows, spec.cols)
        if self.pads_first and not tf.executing_eagerly():
            phases = replace(phases[0], padding="VALID"), replace(phases[1], padding="VALID")
        rows, cols = map(Split.of, spec.axes(input_sizes, filter_sizes), phases)
        return rows, cols

    @staticmethod
    def _within(spec: ConvSpec, splits: tuple[Split, Split]) -> ConvSpec:
        """The convolution that the phases have in common."""
        rows, cols = (split.phase for split in splits)
        return replace(spec, rows=rows, cols=cols)

    @staticmethod
    def _gather(splits: tuple[Split, Split], x: tf.Tensor) -> tf.Tensor:
        """The phases of the input: [phases * batch, length, length, channels]."""
        rows, cols = splits
        rates = [rows.axis.rate, cols.axis.rate]
        x = raw.SpaceToBatchND(input=x, block_shape=integers(rates), paddings=integers([rows.pads, cols.pads]))
        if rows.are_combs and cols.are_combs:
            return x
        combs = tf.split(x, rates[0] * rates[1])
        phases = [
            cut(
                combs[row * cols.axis.rate + col],
                [0, top, left, 0],
                [None, top + rows.length, left + cols.length, None],
            )
            for row, top in rows.places
            for col, left in cols.places
        ]
        return tf.concat(phases, 0)

    @staticmethod
    def _scatter(splits: tuple[Split, Split], dx: tf.Tensor) -> tf.Tensor:
        """The transpose of `_gather`: every phase's samples added at their places."""
        rows, cols = splits
        rates = [rows.axis.rate, cols.axis.rate]
        if not (rows.are_combs and cols.are_combs):
            phases = iter(tf.split(dx, rows.count * cols.count))
            combs: list[list[tf.Tensor]] = [[] for _ in range(rates[0] * rates[1])]
            for row, top in rows.places:
                for col, left in cols.places:
                    below, right = rows.comb - top - rows.length, cols.comb - left - cols.length
                    pads = integers([[0, 0], [top, below], [left, right], [0, 0]])
                    placed = raw.Pad(input=next(phases), paddings=pads)
                    combs[row * cols.axis.rate + col].append(placed)
            nothing = tf.zeros_like(combs[0][0])
            dx = tf.concat([total(comb or [nothing]) for comb in combs], 0)
        return raw.BatchToSpaceND(input=dx, block_shape=integers(rates), crops=integers([rows.pads, cols.pads]))

    @staticmethod
    def _interleave(splits: tuple[Split, Split], y: tf.Tensor) -> tf.Tensor:
        """The phases of the output, put in order."""
        counts, crops = [split.count for split in splits], [[0, split.surplus] for split in splits]
        return raw.BatchToSpaceND(input=y, block_shape=integers(counts), crops=integers(crops))

    @staticmethod
    def _deinterleave(splits: tuple[Split, Split], dy: tf.Tensor) -> tf.Tensor:
        """The transpose of `_interleave`."""
        counts, pads = [split.count for split in splits], [[0, split.surplus] for split in splits]
        return raw.SpaceToBatchND(input=dy, block_shape=integers(counts), paddings=integers(pads))
