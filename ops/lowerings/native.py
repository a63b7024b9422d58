"""The op through TensorFlow's own convolution kernels.

Three kernels of `tf.raw_ops` compute depthwise convolutions, and none takes every case. Which one a case gets:

    plain       DepthwiseConv2dNative: equal strides, no dilation. Every build and device has it. With oneDNN its
                output may be dilated too; its gradients then err, some in silence.
    grouped     Conv2D with filter [kh, kw, 1, C*M]: unequal strides, dilations, both together. oneDNN runs it as
                fast as the plain one; other CPU builds run it 30 to 60 times slower, without gradients.
    phased      the plain kernel over interleaved subsamples of the input (`geometry.common_phases`): whatever the
                other two cannot do, on any build.

All of them run on NHWC (an NCHW tensor is transposed around the kernel: TensorFlow's CPU kernels refuse NCHW or
reorder it at greater cost) and in float32 or float64: half types are widened first and rounded once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import tensorflow as tf
from depthwise.ops.geometry import Axis, Phases, at_least_zero, ceil_div, common_phases
from depthwise.ops.lowerings.base import Contraction
from depthwise.ops.spec import FLOATS, INT32_MAX, ConvSpec

raw = tf.raw_ops


class Native:
    """TensorFlow's convolution kernels, through tf.raw_ops."""

    name = "native"

    def refuses(self, spec: ConvSpec, contraction: Contraction) -> str | None:
        if spec.dtype not in FLOATS:
            return f"TensorFlow's convolution kernels take {', '.join(FLOATS)}, not {spec.dtype}"
        return None

    def output(self, spec: ConvSpec, input: tf.Tensor, filter: tf.Tensor) -> tf.Tensor:
        x, w = _enter(spec, input), _widen(spec, filter)
        y = _kernel(spec, "output").output(_inner(spec), x, w)
        if spec.may_be_empty:
            y = _right_when_empty(spec, y, x, w)
        return _leave(spec, y)

    def input_grad(self, spec: ConvSpec, filter: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        def kernel() -> tf.Tensor:
            w, g = _widen(spec, filter), _enter(spec, dy)
            return _leave(spec, _kernel(spec, "input_grad").input_grad(_inner(spec), w, g, _nhwc_sizes(spec, sizes)))

        return _unless_empty(spec, kernel, sizes, dy, filter)

    def filter_grad(self, spec: ConvSpec, input: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        def kernel() -> tf.Tensor:
            x, g = _enter(spec, input), _enter(spec, dy)
            return tf.cast(_kernel(spec, "filter_grad").filter_grad(_inner(spec), x, g, sizes), spec.dtype)

        return _unless_empty(spec, kernel, sizes, dy, input)


# Entering and leaving the kernels' world: NHWC, float32 or float64.


def _inner(spec: ConvSpec) -> ConvSpec:
    return replace(spec, data_format="NHWC", dtype="float64" if spec.dtype == "float64" else "float32")


def _widen(spec: ConvSpec, tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tensor, tf.float32) if spec.dtype in ("float16", "bfloat16") else tensor


def _enter(spec: ConvSpec, tensor: tf.Tensor) -> tf.Tensor:
    tensor = _widen(spec, tensor)
    return raw.Transpose(x=tensor, perm=[0, 2, 3, 1]) if spec.data_format == "NCHW" else tensor


def _leave(spec: ConvSpec, tensor: tf.Tensor) -> tf.Tensor:
    if spec.dtype in ("float16", "bfloat16"):
        # Cast first: the transposition then moves half the bytes.
        tensor = tf.cast(tensor, spec.dtype)
    return raw.Transpose(x=tensor, perm=[0, 3, 1, 2]) if spec.data_format == "NCHW" else tensor


def _nhwc_sizes(spec: ConvSpec, sizes: tf.Tensor) -> Any:
    if None not in spec.input_shape:
        return _inner(spec).input_shape
    return tf.gather(sizes, [0, 2, 3, 1]) if spec.data_format == "NCHW" else sizes


# Emptiness. The oneDNN kernels return wrong shapes and uninitialised memory where a tensor is empty.


def _unless_empty(spec: ConvSpec, kernel: Any, sizes: tf.Tensor, *operands: tf.Tensor) -> tf.Tensor:
    """A gradient: zero where there is nothing to sum, else the kernel's."""
    if not spec.may_be_empty:
        return kernel()

    def zeros() -> tf.Tensor:
        return tf.zeros(sizes, spec.dtype)

    elements = [tf.size(operand) for operand in operands]
    return tf.cond(tf.reduce_min(tf.stack(elements)) > 0, kernel, zeros)


def _right_when_empty(spec: ConvSpec, y: tf.Tensor, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The kernel's output, cut to the documented shape: the same buffer, unless something turned out to be empty.

    Slices rather than a condition around the kernel, which would hide the convolution from Grappler's fusion.
    """
    rows, cols = spec.axes(tf.shape(x), tf.shape(w))
    if "SAME" in (rows.padding, cols.padding) and spec.multiplier == 1 and spec.channels:
        return y  # then the output is empty only if the input is, and of the right shape by itself
    batch, channels = tf.shape(x)[0], tf.shape(w)[2] * tf.shape(w)[3]
    y = _slice(y, [0, 0, 0, 0], [batch, rows.output, cols.output, tf.shape(y)[3]])
    y = tf.reshape(y, tf.stack([batch, rows.output, cols.output, channels]))
    return tf.ensure_shape(y, _inner(spec).output_shape)


# The kernels. Their specs are NHWC, float32 or float64.


class _Kernel(Protocol):
    def output(self, spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor: ...
    def input_grad(self, spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor: ...
    def filter_grad(self, spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor: ...


def _kernel(spec: ConvSpec, contraction: Contraction) -> _Kernel:
    equal, undilated = spec.rows.stride == spec.cols.stride, spec.rows.rate == spec.cols.rate == 1
    onednn = spec.dtype != "float64" and _onednn_runs_grouped_convolutions()
    if equal and (undilated or (onednn and contraction == "output")):
        return _Plain()
    return _Grouped() if onednn else _Phased()


@cache
def _onednn_runs_grouped_convolutions() -> bool:
    """Asks this build by trying: only oneDNN's kernels give the gradient of a grouped convolution on a CPU.

    With a GPU about, an op may be placed on either device, so only what every device has is relied upon.
    """
    if tf.config.list_physical_devices("GPU"):
        return False
    with tf.init_scope(), tf.device("CPU:0"):
        try:
            raw.Conv2DBackpropFilter(
                input=tf.zeros([1, 2, 2, 2]),
                filter_sizes=[1, 1, 1, 2],
                out_backprop=tf.zeros([1, 2, 1, 2]),
                strides=[1, 1, 2, 1],
                padding="VALID",
            )
        except tf.errors.OpError:
            return False
    return True


def _attributes(spec: ConvSpec) -> dict[str, Any]:
    """The attributes that all six kernels share."""
    rows, cols = spec.rows, spec.cols
    attributes: dict[str, Any] = {
        "strides": [1, rows.stride, cols.stride, 1],
        "dilations": [1, rows.rate, cols.rate, 1],
    }
    if isinstance(rows.padding, str):
        return attributes | {"padding": rows.padding}
    return attributes | {"padding": "EXPLICIT", "explicit_paddings": [0, 0, *rows.pads, *cols.pads, 0, 0]}


class _Plain:
    """DepthwiseConv2dNative and its gradients."""

    def output(self, spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        return raw.DepthwiseConv2dNative(input=x, filter=w, **_attributes(spec))

    def input_grad(self, spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        return raw.DepthwiseConv2dNativeBackpropInput(input_sizes=sizes, filter=w, out_backprop=dy, **_attributes(spec))

    def filter_grad(self, spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        return raw.DepthwiseConv2dNativeBackpropFilter(
            input=x, filter_sizes=sizes, out_backprop=dy, **_attributes(spec)
        )


class _Grouped:
    """Conv2D and its gradients, with one group per input channel.

    oneDNN's gradients take no explicit padding: the input is padded before the kernel, its gradient cut after it.
    """

    def output(self, spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        return raw.Conv2D(input=x, filter=tf.reshape(w, self._filter_sizes(tf.shape(w))), **_attributes(spec))

    def input_grad(self, spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        w = tf.reshape(w, self._filter_sizes(tf.shape(w)))
        (top, bottom), (left, right) = self._explicit_pads(spec)
        padded = [sizes[0], top + sizes[1] + bottom, left + sizes[2] + right, sizes[3]]
        dx = raw.Conv2DBackpropInput(
            input_sizes=tf.stack(padded), filter=w, out_backprop=dy, **_attributes(self._unpadded(spec))
        )
        return _slice(dx, [0, top, left, 0], [sizes[0], top + sizes[1], left + sizes[2], sizes[3]])

    def filter_grad(self, spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        pads = self._explicit_pads(spec)
        if any(sum(pads, ())):
            x = raw.Pad(input=x, paddings=[(0, 0), *pads, (0, 0)])
        dw = raw.Conv2DBackpropFilter(
            input=x, filter_sizes=self._filter_sizes(sizes), out_backprop=dy, **_attributes(self._unpadded(spec))
        )
        return tf.reshape(dw, sizes)

    @staticmethod
    def _filter_sizes(sizes: tf.Tensor) -> tf.Tensor:
        return tf.stack([sizes[0], sizes[1], 1, sizes[2] * sizes[3]])

    @staticmethod
    def _explicit_pads(spec: ConvSpec) -> tuple[tuple[int, int], tuple[int, int]]:
        rows, cols = spec.rows.padding, spec.cols.padding
        return ((0, 0), (0, 0)) if isinstance(rows, str) or isinstance(cols, str) else (rows, cols)

    @staticmethod
    def _unpadded(spec: ConvSpec) -> ConvSpec:
        if isinstance(spec.rows.padding, str):
            return spec
        return replace(spec, rows=replace(spec.rows, padding="VALID"), cols=replace(spec.cols, padding="VALID"))


@dataclass(frozen=True)
class _Split:
    """An axis cut into `count` phases, each of `length` input samples and `outputs` outputs."""

    axis: Axis
    count: int
    outputs: Any
    length: Any

    @classmethod
    def of(cls, axis: Axis, phases: Phases) -> _Split:
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


class _Phased:
    """The plain kernel, once, over phases of the input that are stacked along the batch."""

    def output(self, spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        splits = self._splits(spec, tf.shape(x), tf.shape(w))
        y = _Plain().output(self._within(spec), self._gather(splits, x), w)
        return self._interleave(splits, y)

    def input_grad(self, spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        rows, cols = splits = self._splits(spec, sizes, tf.shape(w))
        phase_sizes = tf.stack([rows.count * cols.count * sizes[0], rows.length, cols.length, sizes[3]])
        dx = _Plain().input_grad(self._within(spec), w, self._deinterleave(splits, dy), phase_sizes)
        return self._scatter(splits, dx, sizes)

    def filter_grad(self, spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        splits = self._splits(spec, tf.shape(x), sizes)
        return _Plain().filter_grad(self._within(spec), self._gather(splits, x), self._deinterleave(splits, dy), sizes)

    @staticmethod
    def _splits(spec: ConvSpec, input_sizes: Any, filter_sizes: Any) -> tuple[_Split, _Split]:
        phases = common_phases(spec.rows, spec.cols)
        rows, cols = map(_Split.of, spec.axes(input_sizes, filter_sizes), phases)
        return rows, cols

    @staticmethod
    def _within(spec: ConvSpec) -> ConvSpec:
        """The convolution that the phases have in common."""
        rows, cols = (Axis(None, None, p.stride_within, 1, "VALID") for p in common_phases(spec.rows, spec.cols))
        return replace(spec, rows=rows, cols=cols)

    @staticmethod
    def _gather(splits: tuple[_Split, _Split], x: tf.Tensor) -> tf.Tensor:
        """The phases of the input: [phases * batch, length, length, channels]."""
        rows, cols = splits
        x = raw.Pad(input=x, paddings=[[0, 0], list(rows.pads), list(cols.pads), [0, 0]])
        phases = [
            _slice(
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
    def _scatter(splits: tuple[_Split, _Split], dx: tf.Tensor, sizes: Any) -> tf.Tensor:
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
        return _slice(raw.AddN(inputs=placed), [0, top, left, 0], [sizes[0], top + sizes[1], left + sizes[2], sizes[3]])

    @staticmethod
    def _interleave(splits: tuple[_Split, _Split], y: tf.Tensor) -> tf.Tensor:
        """The phases of the output, put in order."""
        rows, cols = splits
        channels = tf.shape(y)[3]
        y = tf.reshape(y, tf.stack([rows.count, cols.count, -1, rows.outputs, cols.outputs, channels]))
        y = raw.Transpose(x=y, perm=[2, 3, 0, 4, 1, 5])
        y = tf.reshape(y, tf.stack([-1, rows.outputs * rows.count, cols.outputs * cols.count, channels]))
        return _slice(y, [0, 0, 0, 0], [INT32_MAX, rows.axis.output, cols.axis.output, INT32_MAX])

    @staticmethod
    def _deinterleave(splits: tuple[_Split, _Split], dy: tf.Tensor) -> tf.Tensor:
        """The transpose of `_interleave`."""
        rows, cols = splits
        missing = [split.outputs * split.count - split.axis.output for split in splits]
        dy = raw.Pad(input=dy, paddings=[[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])
        channels = tf.shape(dy)[3]
        dy = tf.reshape(dy, tf.stack([-1, rows.outputs, rows.count, cols.outputs, cols.count, channels]))
        dy = raw.Transpose(x=dy, perm=[2, 4, 0, 1, 3, 5])
        return tf.reshape(dy, tf.stack([-1, rows.outputs, cols.outputs, channels]))


def _slice(tensor: tf.Tensor, begin: list[Any], end: list[Any], strides: list[int] | None = None) -> tf.Tensor:
    return raw.StridedSlice(input=tensor, begin=begin, end=end, strides=strides or [1] * len(begin))
