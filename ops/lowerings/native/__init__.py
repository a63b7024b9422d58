"""The op through TensorFlow's own convolution kernels.

Two kernels of `tf.raw_ops` compute depthwise convolutions, and neither takes every case. What a case gets:

    plain       DepthwiseConv2dNative: equal strides, no dilation. Every build and device has it. With oneDNN its
                output may be dilated too; its gradients then err, some in silence. The filter gradient of a wide
                filter is taken a few columns at a time, for oneDNN has a fast kernel for no more; an input gradient
                that is dilated, or of a large filter, is the output of the output gradient and the reversed filter.
    grouped     Conv2D with filter [kh, kw, 1, C*M]: unequal strides, dilations, both together. In a graph oneDNN
                runs it as fast as the plain one, but it errs for a single channel, and its gradients are slow where
                dilated; other CPU builds run it 30 to 60 times slower, without gradients. Eager calls of it take
                longer, so there oneDNN's plain kernel computes unequal strides (its gradients only without explicit
                padding, which they refuse).
    repeated    either kernel on channels that are repeated for each of several outputs, where oneDNN is slow at these.
    phased      the plain kernel over interleaved subsamples of the input (`geometry.common_phases`): whatever the
                two kernels cannot do as they are, on any build, and what they would pad too far.

In eager code with oneDNN, what is small is computed in float64 (`in_float64`).

All of them run on NHWC (an NCHW tensor is transposed around the kernel: TensorFlow's CPU kernels refuse NCHW or
reorder it at greater cost).

What is not finite in input or output gradient reaches the results whose sums it is in, and no others. A filter value
that is not finite may meet zeros too and make NaN there, the padding's and, in an input gradient, those around the
output gradient and between its samples: which it does depends on the build.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf
from depthwise.ops.geometry import at_least_zero, common_phases
from depthwise.ops.lowerings.base import Contraction, Lowering, Sizes
from depthwise.ops.lowerings.native.in_float64 import in_float64_if_small
from depthwise.ops.lowerings.native.kernels import (
    Grouped,
    Kernel,
    Plain,
    cut,
    integers,
    on_padded_input,
    onednn_computes,
    onednn_computes_everyday,
    padded,
    pads_without_strides,
)
from depthwise.ops.lowerings.native.phased import Phased
from depthwise.ops.lowerings.native.repeats import filter_of_repeated, repeat, repeated, sum_of_repeated
from depthwise.ops.mode import Mode, current_mode
from depthwise.ops.spec import FLOATS, MOST_SPECS, ConvSpec

raw = tf.raw_ops

PADS_IN_PLACE = 5
"""Most padding of a dilated convolution, on any side, that oneDNN's fast kernels take: 5x5 with rate 4, (8,28,28,192),
takes 10.8 ms with SAME padding, and 2.5 padded beforehand."""
PADDED_TO = 2
"""How many times as large as the image the padding may make it before phases, which need none, are faster: 3x3 on
(8,33,33,256) takes 6.3 ms with rate 6 and 8.2 with rate 12 (1.9 and 3.0 times as large), and 7.6 and 7.4 in phases."""
LEAST_TAPS_TRANSPOSED, SLOW_OUTPUTS = 10, range(81, 225)
"""Fewest taps, and which numbers of them not, for which an input gradient without strides or dilations is computed as
an output: 7x7 on (8,28,28,192) takes 1.7 ms as a gradient and 1.4 as an output, 31x31 on (8,56,56,128) 60 and 34, but
13x13 on (8,28,28,256) 6.8 and 10, and 3x3 the same either way. Dilated, where a gradient is one of phases, always: 3x3,
rate 2, on (8,56,56,128) 5.2 and 2.5."""
MOST_PHASES, MOST_COMBS = 256, 4096
"""Most phases before the phased kernel refuses: with a stride, where each is a slice in the graph; and without, where
phases longer than the image are padded."""
MOST_PADDING = 2**24
"""Elements that padding may add to an image before the kernels that need it in memory refuse."""


class Native:
    """TensorFlow's convolution kernels, through tf.raw_ops."""

    name = "native"

    def __init__(self, exactly: Lowering) -> None:
        """`exactly`: the lowering for filter gradients where something is not finite. TensorFlow's kernels multiply the
        padding's zeros with the output gradient, and 0 * NaN is NaN: it would reach taps that it has no part in."""
        self.exactly = exactly
        self._exact_filter_grad = lru_cache(maxsize=MOST_SPECS)(self._new_exact_filter_grad)

    def refuses(self, spec: ConvSpec, contraction: Contraction, mode: Mode) -> str | None:
        if spec.dtype not in FLOATS:
            return f"TensorFlow's convolution kernels take {', '.join(FLOATS)}, not {spec.dtype}"
        if spec.dtype == "float64" and mode == "xla":
            return "XLA convolves float64 with a filter full of zeros, which spreads NaN and infinity among channels"
        kernel = _kernel(spec, contraction)
        is_explicit = not all(isinstance(axis.padding, str) for axis in (spec.rows, spec.cols))
        if spec.far_apart and (is_explicit or not isinstance(kernel, Plain)):
            return "windows or taps stand further apart than the image is large; these kernels lay out what is between"
        if isinstance(kernel, Phased):
            rows, cols = common_phases(spec.rows, spec.cols)
            most = MOST_PHASES if spec.is_strided else MOST_COMBS
            if rows.count * cols.count > most:
                return f"these strides and dilations take {rows.count * cols.count} phases, more than {most}"
        added = 0 if isinstance(kernel, Plain) or not spec.known else _padding(spec, kernel)
        if added > MOST_PADDING:
            return f"these kernels need the padding in memory, {added} elements, more than {MOST_PADDING}"
        return None

    def output(self, spec: ConvSpec, input: tf.Tensor, filter: tf.Tensor) -> tf.Tensor:
        return in_float64_if_small(spec, "output", _output, input, filter)

    def input_grad(self, spec: ConvSpec, filter: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        def compute() -> tf.Tensor:
            return in_float64_if_small(spec, "input_grad", _input_grad, filter, dy, sizes)

        return _unless_empty(spec, compute, sizes, dy, filter)

    def filter_grad(self, spec: ConvSpec, input: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        def compute() -> tf.Tensor:
            found = in_float64_if_small(spec, "filter_grad", _filter_grad, input, dy, sizes)

            def exactly() -> tf.Tensor:
                return self._exact_filter_grad(_of_any_size(spec))(_to_nhwc(spec, input), _to_nhwc(spec, dy), found)

            # What is not finite in x or dy shows here: it is a term of some tap's sum. To ask is cheap.
            if tf.executing_eagerly():  # NumPy takes 3 us; calls of three ops would take 40
                return found if np.isfinite(found.numpy()).all() else exactly()
            dw = tf.cond(tf.reduce_all(tf.math.is_finite(found)), lambda: found, exactly)
            dw.set_shape(spec.filter_shape)
            return dw

        return _unless_empty(spec, compute, sizes, dy, input)

    def _new_exact_filter_grad(self, spec: ConvSpec) -> Callable[..., Any]:
        """(input, dy, a tensor of the filter's shape) -> filter gradient.

        Not inlined: with a copy of its nodes in every layer, MobileNetV2's first training step took 12 s, and takes 8.3
        (with Keras's layers 5.6).
        """

        def exact_filter_grad(x: tf.Tensor, dy: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
            # A shape, unlike sizes that are handed over, is known to XLA even inside the call.
            return self.exactly.filter_grad(spec, x, dy, tf.shape(like))

        function = tf.function(exact_filter_grad, autograph=False, experimental_attributes={"_noinline": True})
        with tf.init_scope():
            concrete: Callable[..., Any] = function.get_concrete_function(*[tf.TensorSpec([None] * 4, spec.dtype)] * 3)
        return concrete


def _output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The output, by the kernel that is fastest at it."""
    nhwc, x = _as_nhwc(spec), _to_nhwc(spec, x)
    of_repeated = repeated(nhwc, "output")
    # Converters are to find one op a layer, with nothing before it.
    if of_repeated is not None and current_mode() != "export":
        nhwc, x, w = of_repeated, repeat(nhwc, x), filter_of_repeated(nhwc, w)
    inner, image = _padded_if_faster(nhwc, x)
    y = _kernel(nhwc, "output").output(*_with_room_for_an_output(inner, image, w))
    return _from_nhwc(spec, _right_when_empty(nhwc, y, x, w) if nhwc.may_be_empty else y)


def _input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """The input gradient, by the kernels that are fastest at it."""
    return _from_nhwc(spec, _nhwc_input_grad(_as_nhwc(spec), w, _to_nhwc(spec, dy), _nhwc_sizes(spec, sizes)))


def _nhwc_input_grad(spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
    of_repeated, transposed = repeated(spec, "input_grad"), as_output(spec)
    if of_repeated is not None:
        repeated_sizes = [*(sizes[i] for i in range(3)), of_repeated.channels or sizes[3] * spec.multiplier]
        dx = _nhwc_input_grad(of_repeated, filter_of_repeated(spec, w), dy, repeated_sizes)
        return sum_of_repeated(spec, dx, sizes)
    if transposed is not None:
        inner, image = _padded_if_faster(transposed, dy)
        return _kernel(transposed, "output").output(inner, image, raw.ReverseV2(tensor=w, axis=integers([0, 1])))
    return _kernel(spec, "input_grad").input_grad(spec, w, dy, sizes)


def _filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
    """The filter gradient, by the kernels that are fastest at it."""
    nhwc, x, dy = _as_nhwc(spec), _to_nhwc(spec, x), _to_nhwc(spec, dy)
    of_repeated = repeated(nhwc, "filter_grad")
    if of_repeated is None:
        return _kernel(nhwc, "filter_grad").filter_grad(nhwc, x, dy, sizes)
    repeated_sizes = [*of_repeated.filter_shape[:2], of_repeated.channels or sizes[2] * spec.multiplier, 1]
    dw = _kernel(of_repeated, "filter_grad").filter_grad(of_repeated, repeat(nhwc, x), dy, repeated_sizes)
    return tf.reshape(dw, integers(sizes))


def _kernel(spec: ConvSpec, contraction: Contraction) -> Kernel:
    return _kernel_of_call(spec, contraction, tf.executing_eagerly())


@lru_cache(maxsize=MOST_SPECS)
def _kernel_of_call(spec: ConvSpec, contraction: Contraction, eager: bool) -> Kernel:
    equal = spec.rows.stride == spec.cols.stride
    if equal and not spec.is_dilated:
        return Plain()
    if not onednn_computes(spec):
        # A graph may be converted to LiteRT, where it is one dilated convolution if the padding comes first.
        return Phased(pads_first=contraction == "output")
    if contraction != "output" and spec.is_dilated:
        return Phased()  # oneDNN's gradients of dilated convolutions are up to ten times slower
    if equal:
        return Phased() if _is_padded_too_far(spec) else Plain()
    # One channel of unequal strides: oneDNN leaves rows of an output of one column unwritten, and writes beyond the
    # gradient of a 1x1 filter, which ends the process sooner or later (TensorFlow 2.21; tf.nn does both too).
    if spec.channels in (1, None):
        return Phased()
    if contraction != "output":
        # A graph may be run on a device whose plain kernel refuses unequal strides.
        return Plain() if eager and isinstance(spec.rows.padding, str) else Grouped()
    return Plain() if eager and not spec.is_dilated else Grouped()


@lru_cache(maxsize=MOST_SPECS)
def as_output(spec: ConvSpec) -> ConvSpec | None:
    """The convolution, in NHWC, whose output is the input gradient, of the output gradient and the reversed filter.

    Returns:
      None where there is none, or oneDNN is no faster at it.
    """
    if not onednn_computes_everyday(spec):
        return None
    axes = spec.rows, spec.cols
    pads = tuple(
        (axis.span - 1 - before, axis.span - 1 - after)
        for axis, (before, after) in zip(axes, pads_without_strides(spec), strict=True)
    )
    if min(map(min, pads)) < 0:
        return None
    rows, cols = (replace(axis, padding="SAME") for axis in axes)
    are_same = pads == pads_without_strides(replace(spec, rows=rows, cols=cols))
    rows, cols = (
        replace(axis, size=axis.output if axis.known else None, padding="SAME" if are_same else pad)
        for axis, pad in zip(axes, pads, strict=True)
    )
    transposed = replace(_as_nhwc(spec), rows=rows, cols=cols)
    if not spec.is_dilated:
        is_quick = are_same and spec.taps >= LEAST_TAPS_TRANSPOSED and spec.taps not in SLOW_OUTPUTS
    elif spec.known:
        is_quick = not _is_enlarged(transposed)
    else:
        is_quick = max(map(max, pads)) <= PADS_IN_PLACE
    return transposed if is_quick else None


# Entering and leaving the kernels' world: NHWC.


@lru_cache(maxsize=MOST_SPECS)
def _as_nhwc(spec: ConvSpec) -> ConvSpec:
    return replace(spec, data_format="NHWC")


@lru_cache(maxsize=MOST_SPECS)
def _of_any_size(spec: ConvSpec) -> ConvSpec:
    """The convolution with every size forgotten: one function is then right for all, and hardly ever runs."""
    rows, cols = (replace(axis, size=None, taps=None) for axis in (spec.rows, spec.cols))
    return replace(_as_nhwc(spec), batch=None, channels=None, multiplier=None, rows=rows, cols=cols)


def _to_nhwc(spec: ConvSpec, tensor: tf.Tensor) -> tf.Tensor:
    return raw.Transpose(x=tensor, perm=integers([0, 2, 3, 1])) if spec.data_format == "NCHW" else tensor


def _from_nhwc(spec: ConvSpec, tensor: tf.Tensor) -> tf.Tensor:
    return raw.Transpose(x=tensor, perm=integers([0, 3, 1, 2])) if spec.data_format == "NCHW" else tensor


def _nhwc_sizes(spec: ConvSpec, sizes: Sizes) -> Any:
    if None not in spec.input_shape:
        return _as_nhwc(spec).input_shape
    return tf.gather(sizes, [0, 2, 3, 1]) if spec.data_format == "NCHW" else sizes


def _padded_if_faster(spec: ConvSpec, x: tf.Tensor) -> tuple[ConvSpec, tf.Tensor]:
    """An NHWC spec and input, the padding of which has been applied where the kernels would be slow at it."""
    if not is_padded_slowly(spec):
        return spec, x
    kernel = _kernel(spec, "output")
    if isinstance(kernel, Phased) or _padding(spec, kernel) > MOST_PADDING:
        return spec, x
    return padded(spec, x)


def is_padded_slowly(spec: ConvSpec) -> bool:
    """Whether the output is dilated, of known size, and padded further than oneDNN's fast kernels do themselves."""
    if not spec.known or not spec.is_dilated:
        return False
    return bool(max(*spec.rows.pads, *spec.cols.pads) > PADS_IN_PLACE)


def _is_padded_too_far(spec: ConvSpec) -> bool:
    """Whether phases, which need no padding, are faster."""
    if not is_padded_slowly(spec) or common_phases(spec.rows, spec.cols)[0].padding == "VALID":
        return False
    return prod(axis.rate for axis in (spec.rows, spec.cols)) <= MOST_COMBS and _is_enlarged(spec)


def _is_enlarged(spec: ConvSpec) -> bool:
    """Whether padding makes an image of known size much larger."""
    axes = spec.rows, spec.cols
    return bool(prod(axis.size + sum(axis.pads) for axis in axes) > PADDED_TO * prod(axis.size for axis in axes))


def _padding(spec: ConvSpec, kernel: Kernel) -> int:
    """Elements that padding adds to an input of known size, where the kernel needs it in memory."""
    pads = kernel.pads(spec) if isinstance(kernel, Phased) else (spec.rows.pads, spec.cols.pads)
    samples = prod(axis.size + sum(pad) for axis, pad in zip((spec.rows, spec.cols), pads, strict=True))
    return int((samples - spec.rows.size * spec.cols.size) * (spec.batch or 1) * (spec.channels or 1))


# Emptiness. The oneDNN kernels return wrong shapes and uninitialised memory where a tensor is empty.


def _unless_empty(spec: ConvSpec, compute: Callable[[], tf.Tensor], sizes: Sizes, *operands: tf.Tensor) -> tf.Tensor:
    """A gradient: zero where there is nothing to sum, else what is computed."""
    if not spec.may_be_empty:
        return compute()

    # (Not of `tf.size`, by whose vector of no rows `tape.jacobian` divides.)
    sizes_of_operands = tf.concat([tf.shape(operand) for operand in operands], 0)
    return tf.cond(tf.reduce_min(sizes_of_operands) > 0, compute, lambda: tf.zeros(sizes, spec.dtype))


def _with_room_for_an_output(spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tuple[ConvSpec, tf.Tensor, tf.Tensor]:
    """Where sizes are unknown, the operands padded so far that there is an output, or the kernel would fail.

    The op `Pad` hands its input on, at no cost, where there turns out to be nothing to pad.
    """
    if spec.channels is None or spec.multiplier is None:
        channels, multiplier = ([0, at_least_zero(1 - size)] for size in tf.unstack(tf.shape(w)[2:]))
        x = raw.Pad(input=x, paddings=[[0, 0], [0, 0], [0, 0], channels])
        w = raw.Pad(input=w, paddings=[[0, 0], [0, 0], channels, multiplier])
    if spec.known or spec.rows.padding == "SAME":
        return spec, x, w
    rows, cols = (axis.pads_for_a_window for axis in spec.axes(tf.shape(x), tf.shape(w)))
    x = raw.Pad(input=x, paddings=[[0, 0], list(rows), list(cols), [0, 0]])
    return on_padded_input(spec, (rows, cols)), x, w


def _right_when_empty(spec: ConvSpec, y: tf.Tensor, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """The kernel's output, cut to the documented shape: the same buffer, unless something turned out to be empty.

    Slices rather than a condition around the kernel, which would hide the convolution from Grappler's fusion.
    """
    rows, cols = spec.axes(tf.shape(x), tf.shape(w))
    if rows.padding == "SAME" and rows.stride == cols.stride == spec.multiplier == 1 and spec.channels:
        return y  # then output and input are of one shape, which is what the kernels return where it is empty
    batch, channels = tf.shape(x)[0], tf.shape(w)[2] * tf.shape(w)[3]
    y = cut(y, [0, 0, 0, 0], [batch, rows.output, cols.output, channels])
    y = tf.reshape(y, tf.stack([batch, rows.output, cols.output, channels]))
    y.set_shape(_as_nhwc(spec).output_shape)
    return y
