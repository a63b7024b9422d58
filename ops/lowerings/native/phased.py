"""Any convolution on any build: TensorFlow's plain kernel over interleaved subsamples of the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf
from depthwise.ops.geometry import Axis, Phases, at_least_zero, ceil_div, common_phases
from depthwise.ops.lowerings.native.kernels import Plain, cut
from depthwise.ops.spec import INT32_MAX, ConvSpec

raw = tf.raw_ops


@dataclass(frozen=True)
class Split:
    """An axis cut into `count` phases, each of `length` input samples and `outputs` outputs."""

    axis: Axis
    count: int
    outputs: Any
    length: Any

    @classmethod
    def of(cls, axis: Axis, phases: Phases) -> Split:
        # One output at least: lengths stay positive where, at run time, the output turns out to be empty.
        outputs = at_least_zero(ceil_div(axis.output, phases.count) - 1) + 1
        return cls(axis, phases.count, outputs, phases.stride_within * (outputs - 1) + axis.taps)

    @property
    def begins(self) -> range:
        """Where each phase begins, in the padded input."""
        return range(0, self.axis.stride * self.count, self.axis.stride)

    @property
    def extent(self) -> Any:
        """Input samples from a phase's first to its last."""
        return self.axis.rate * (self.length - 1) + 1

    @property
    def pads(self) -> tuple[Any, Any]:
        """Padding under which the last phase is as long as the others; what nothing reads is left as it is."""
        before = self.axis.pads[0]
        return before, at_least_zero(self.begins[-1] + self.extent - self.axis.size - before)

    @property
    def padded(self) -> Any:
        return self.axis.size + sum(self.pads)


class Phased:
    """The plain kernel, once, over phases of the input that are stacked along the batch."""

    def output(self, spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        splits = self._splits(spec, tf.shape(x), tf.shape(w))
        y = Plain().output(self._within(spec), self._gather(splits, x), w)
        return self._interleave(splits, y)

    def input_grad(self, spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        rows, cols = splits = self._splits(spec, sizes, tf.shape(w))
        phase_sizes = tf.stack([rows.count * cols.count * sizes[0], rows.length, cols.length, sizes[3]])
        dx = Plain().input_grad(self._within(spec), w, self._deinterleave(splits, dy), phase_sizes)
        return self._scatter(splits, dx, sizes)

    def filter_grad(self, spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        splits = self._splits(spec, tf.shape(x), sizes)
        return Plain().filter_grad(self._within(spec), self._gather(splits, x), self._deinterleave(splits, dy), sizes)

    @staticmethod
    def _splits(spec: ConvSpec, input_sizes: Any, filter_sizes: Any) -> tuple[Split, Split]:
        phases = common_phases(spec.rows, spec.cols)
        rows, cols = map(Split.of, spec.axes(input_sizes, filter_sizes), phases)
        return rows, cols

    @staticmethod
    def _within(spec: ConvSpec) -> ConvSpec:
        """The convolution that the phases have in common."""
        rows, cols = (Axis(None, None, p.stride_within, 1, "VALID") for p in common_phases(spec.rows, spec.cols))
        return replace(spec, rows=rows, cols=cols)

    @staticmethod
    def _gather(splits: tuple[Split, Split], x: tf.Tensor) -> tf.Tensor:
        """The phases of the input: [phases * batch, length, length, channels]."""
        rows, cols = splits
        x = raw.Pad(input=x, paddings=[[0, 0], list(rows.pads), list(cols.pads), [0, 0]])
        phases = [
            cut(
                x,
                [0, top, left, 0],
                [INT32_MAX, top + rows.extent, left + cols.extent, INT32_MAX],
                [1, rows.axis.rate, cols.axis.rate, 1],
            )
            for top in rows.begins
            for left in cols.begins
        ]
        return tf.concat(phases, 0)

    @staticmethod
    def _scatter(splits: tuple[Split, Split], dx: tf.Tensor, sizes: Any) -> tf.Tensor:
        """The transpose of `_gather`: every phase's samples added at their places."""
        rows, cols = splits
        padded = tf.stack([sizes[0], rows.padded, cols.padded, sizes[3]])
        places = [(top, left) for top in rows.begins for left in cols.begins]
        placed = [
            raw.StridedSliceGrad(
                shape=padded,
                begin=[0, top, left, 0],
                end=tf.stack([sizes[0], top + rows.extent, left + cols.extent, sizes[3]]),
                strides=[1, rows.axis.rate, cols.axis.rate, 1],
                dy=phase,
            )
            for (top, left), phase in zip(places, tf.split(dx, len(places)), strict=True)
        ]
        top, left = rows.pads[0], cols.pads[0]
        return cut(raw.AddN(inputs=placed), [0, top, left, 0], [sizes[0], top + sizes[1], left + sizes[2], sizes[3]])

    @staticmethod
    def _interleave(splits: tuple[Split, Split], y: tf.Tensor) -> tf.Tensor:
        """The phases of the output, put in order."""
        rows, cols = splits
        channels = tf.shape(y)[3]
        y = tf.reshape(y, tf.stack([rows.count, cols.count, -1, rows.outputs, cols.outputs, channels]))
        y = raw.Transpose(x=y, perm=[2, 3, 0, 4, 1, 5])
        y = tf.reshape(y, tf.stack([-1, rows.outputs * rows.count, cols.outputs * cols.count, channels]))
        return cut(y, [0, 0, 0, 0], [INT32_MAX, rows.axis.output, cols.axis.output, INT32_MAX])

    @staticmethod
    def _deinterleave(splits: tuple[Split, Split], dy: tf.Tensor) -> tf.Tensor:
        """The transpose of `_interleave`."""
        rows, cols = splits
        missing = [split.outputs * split.count - split.axis.output for split in splits]
        dy = raw.Pad(input=dy, paddings=[[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])
        channels = tf.shape(dy)[3]
        dy = tf.reshape(dy, tf.stack([-1, rows.outputs, rows.count, cols.outputs, cols.count, channels]))
        dy = raw.Transpose(x=dy, perm=[2, 4, 0, 1, 3, 5])
        return tf.reshape(dy, tf.stack([-1, rows.outputs, cols.outputs, channels]))
