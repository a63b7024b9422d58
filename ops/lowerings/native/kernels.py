"""TensorFlow's convolution kernels, behind one protocol. Specs are NHWC, float32 or float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from depthwise.ops.geometry import ceil_div
from depthwise.ops.lowerings.base import Sizes
from depthwise.ops.spec import MOST_SPECS, ConvSpec

raw = tf.raw_ops


MOST_TAPS_PADDED = 121
"""Most taps for which the filter gradient is padded beforehand where the filter is higher than the image. There oneDNN
has no fast kernel: the bare op takes 8.8 ms for 3x3 on (32,1,1,960), MobileNetV2's last layers on images of 32x32, and
0.7 with the padding; 5x5 on (32,3,3,768) 12 and 4.4, 11x11 on (8,10,10,64) 5.3 and 2.4, but 13x13 on (8,7,7,1024) 37
and 81."""

MOST_COLUMNS = 3
"""Most columns of a filter whose gradient oneDNN has a fast kernel for, however many rows. 5x5 on (8,28,28,240) takes
7.5 ms, and 4.5 as 3 and 2 columns; 7x7 on (8,56,56,96) 19 and 11, on (8,7,7,768) 14 and 2.3; 31x31 on (8,56,56,128)
1,760 and 400."""
LEAST_CHANNELS = 32
"""Fewest channels for which that pays: 5x5 on 8 images of 28x28 takes 0.82 ms in parts and 0.40 whole with one channel,
0.76 and 0.81 with 16, 0.82 and 1.2 with 32; 11x11 2.7 and 0.49, 2.4 and 1.8, 3.4 and 3.8. (Eager calls gain from 48 on:
7x7 1.4 and 0.8 with 24, 1.6 and 1.6 with 32, 2.1 and 2.3 with 48.)"""
MOST_ROWS = 7
"""Most rows of a filter for which that is done on images of unknown height, which may be lower than the filter: 27x27
on (8,14,14,512) takes 140 ms, and would take 240."""


class Kernel(Protocol):
    """The three contractions through one kind of kernel; shapes as tensors or sequences of four."""

    def output(self, spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor: ...
    def input_grad(self, spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor: ...
    def filter_grad(self, spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor: ...


@cache
def onednn_runs_grouped_convolutions() -> bool:
    """Asks this build by trying: only oneDNN's kernels give the gradient of a grouped convolution on a CPU.

    With a GPU about, an op may be placed on either device, so only what every device has is relied upon.
    """
    if tf.config.list_physical_devices("GPU"):
        return False
    # In a graph and session of its own: called while a graph is built, it would but add to that, and run nothing.
    with tf.Graph().as_default(), tf.device("CPU:0"), tf.compat.v1.Session() as session:
        gradient = raw.Conv2DBackpropFilter(
            input=tf.zeros([1, 2, 2, 2]),
            filter_sizes=[1, 1, 1, 2],
            out_backprop=tf.zeros([1, 2, 1, 2]),
            strides=[1, 1, 2, 1],
            padding="VALID",
        )
        try:
            session.run(gradient)
        except tf.errors.OpError:
            return False
    return True


def onednn_computes(spec: ConvSpec) -> bool:
    """Whether oneDNN computes it: on builds that use it, in float32 (which half types are accumulated in)."""
    return spec.dtype != "float64" and onednn_runs_grouped_convolutions()


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


class Plain:
    """DepthwiseConv2dNative and its gradients.

    In a graph, an explicit padding is applied before the kernel: with oneDNN, Grappler fuses the op with a bias and an
    activation behind it, forgets its explicit padding on the way, and aborts the process (TensorFlow 2.21).
    """

    def output(self, spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        pads = explicit_pads(spec)
        if any(sum(pads, ())) and not tf.executing_eagerly():
            spec, x = padded(spec, x)
        return raw.DepthwiseConv2dNative(input=x, filter=w, **_attributes(spec))

    def input_grad(self, spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        return raw.DepthwiseConv2dNativeBackpropInput(
            input_sizes=integers(sizes), filter=w, out_backprop=dy, **_attributes(spec)
        )

    def filter_grad(self, spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        if _pays_to_pad_first(spec):
            spec, x = padded(spec, x)
        if _pays_in_parts(spec):
            if tf.executing_eagerly():
                return _in_one_call(_of_any_images(spec))(x, dy)
            return _in_parts(spec, x, dy, sizes)
        return raw.DepthwiseConv2dNativeBackpropFilter(
            input=x, filter_sizes=integers(sizes), out_backprop=dy, **_attributes(spec)
        )


class Grouped:
    """Conv2D and its gradients, with one group per input channel.

    oneDNN's gradients take no explicit padding: the input is padded before the kernel, its gradient cut after it.
    """

    def output(self, spec: ConvSpec, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        return raw.Conv2D(input=x, filter=tf.reshape(w, self._filter_sizes(tf.shape(w))), **_attributes(spec))

    def input_grad(self, spec: ConvSpec, w: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        w = tf.reshape(w, self._filter_sizes(tf.shape(w)))
        attributes = _attributes(without_explicit_padding(spec))
        (top, bottom), (left, right) = explicit_pads(spec)
        padded_sizes = [sizes[0], top + sizes[1] + bottom, left + sizes[2] + right, sizes[3]]
        dx = raw.Conv2DBackpropInput(input_sizes=tf.stack(padded_sizes), filter=w, out_backprop=dy, **attributes)
        return cut(dx, [0, top, left, 0], [sizes[0], top + sizes[1], left + sizes[2], sizes[3]])

    def filter_grad(self, spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
        pads = explicit_pads(spec)
        attributes = _attributes(without_explicit_padding(spec))
        if any(sum(pads, ())):
            x = raw.Pad(input=x, paddings=integers([(0, 0), *pads, (0, 0)]))
        # Where dy alone is vectorized, `tf.vectorized_map` and `tape.jacobian` make its vector a part of the output
        # channels, which in a grouped convolution mixes the groups, in silence; where x is too, they loop. So let x
        # depend on dy. The op Select hands a tensor on, at no cost, where its condition is a scalar.
        x = raw.Select(condition=tf.math.is_nan(dy[0, 0, 0, 0]), x=x, y=x)
        dw = raw.Conv2DBackpropFilter(input=x, filter_sizes=self._filter_sizes(sizes), out_backprop=dy, **attributes)
        return tf.reshape(dw, integers(sizes))

    @staticmethod
    def _filter_sizes(sizes: Sizes) -> tf.Tensor:
        return tf.stack([sizes[0], sizes[1], 1, sizes[2] * sizes[3]])


def _pays_to_pad_first(spec: ConvSpec) -> bool:
    """Whether the filter gradient is faster on an input padded beforehand: oneDNN computes, sizes are known, the filter
    is higher than the image and has few taps, and no axis is padded by more than twice its span."""
    if not spec.known or spec.rows.size >= spec.rows.taps or spec.taps > MOST_TAPS_PADDED:
        return False
    return onednn_computes(spec) and all(sum(axis.pads) <= 2 * axis.span for axis in (spec.rows, spec.cols))


def _pays_in_parts(spec: ConvSpec) -> bool:
    """Whether the filter gradient is faster a few columns at a time: oneDNN computes it, there are many channels, the
    filter is wide, and not higher than the image, and there are no strides (5x5, stride 2, on (8,56,56,144) takes 5.9
    ms and would take 5.6) and a multiplier of 1 (5x5 on (8,28,28,64) with two outputs 2.7 and 3.7)."""
    rows, cols = spec.rows, spec.cols
    if not onednn_computes_everyday(spec) or (spec.channels is not None and spec.channels < LEAST_CHANNELS):
        return False
    most_rows = rows.size if isinstance(rows.size, int) else MOST_ROWS
    return bool(cols.taps > MOST_COLUMNS and rows.taps <= most_rows)


def _in_parts(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Any) -> tf.Tensor:
    """The filter gradients of a few columns at a time, as of narrow filters.

    Each meets the padded input from its first column on, as far as those of the last output go.
    """
    rows, cols = spec.rows, spec.cols
    row_pads, col_pads = pads_without_strides(spec)
    if any(col_pads):
        x = raw.Pad(input=x, paddings=[[0, 0], [0, 0], list(col_pads), [0, 0]])
    parts = []
    for columns in np.array_split(range(cols.taps), ceil_div(cols.taps, MOST_COLUMNS)):
        first, count = int(columns[0]), len(columns)
        part = replace(spec, rows=replace(rows, padding=row_pads), cols=replace(cols, taps=count, padding=(0, 0)))
        parts.append(
            raw.DepthwiseConv2dNativeBackpropFilter(
                input=cut(x, [0, 0, first, 0], [None, None, first + count - cols.taps or None, None]),
                filter_sizes=[rows.taps, count, spec.channels or sizes[2], 1],
                out_backprop=dy,
                **_attributes(part),
            )
        )
    return tf.concat(parts, 1)


@lru_cache(maxsize=MOST_SPECS)
def _of_any_images(spec: ConvSpec) -> ConvSpec:
    rows, cols = (replace(axis, size=None) for axis in (spec.rows, spec.cols))
    return replace(spec, batch=None, rows=rows, cols=cols)


@lru_cache(maxsize=MOST_SPECS)
def _in_one_call(spec: ConvSpec) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """(input, output gradient) -> filter gradient in parts, for eager code: one function for images of any size, where
    calls of six ops would take longer than the parts save."""
    function = tf.function(lambda x, dy: _in_parts(spec, x, dy, spec.filter_shape), autograph=False)
    found: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = function.get_concrete_function(
        *[tf.TensorSpec(shape, spec.dtype) for shape in (spec.input_shape, spec.output_shape)]
    )
    return found


def onednn_computes_everyday(spec: ConvSpec) -> bool:
    """Whether oneDNN computes it, without strides, one output of each channel, of a filter of known size."""
    return onednn_computes(spec) and not spec.is_strided and spec.multiplier == 1 and spec.is_sized


def pads_without_strides(spec: ConvSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """The padding of rows and columns, whose sizes may be unknown: without strides it is the same of any size."""
    return replace(spec.rows, size=1).pads, replace(spec.cols, size=1).pads


def explicit_pads(spec: ConvSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """The explicit padding of rows and columns; none for SAME and VALID."""
    rows, cols = spec.rows.padding, spec.cols.padding
    return ((0, 0), (0, 0)) if isinstance(rows, str) or isinstance(cols, str) else (rows, cols)


def without_explicit_padding(spec: ConvSpec) -> ConvSpec:
    """The same convolution on an input to which an explicit padding has been applied."""
    return spec if isinstance(spec.rows.padding, str) else on_padded_input(spec, explicit_pads(spec))


def padded(spec: ConvSpec, x: tf.Tensor) -> tuple[ConvSpec, tf.Tensor]:
    """An NHWC input whose padding is known, with it, and the same convolution on that."""
    pads = spec.rows.pads, spec.cols.pads
    return on_padded_input(spec, pads), raw.Pad(input=x, paddings=integers([(0, 0), *pads, (0, 0)]))


def on_padded_input(spec: ConvSpec, pads: tuple[tuple[Any, Any], tuple[Any, Any]]) -> ConvSpec:
    """The same convolution on an input to which its padding has been applied: so much, before and after each axis."""
    rows, cols = (
        replace(axis, size=axis.size + sum(pad) if axis.known else None, padding="VALID")
        for axis, pad in zip((spec.rows, spec.cols), pads, strict=True)
    )
    return replace(spec, rows=rows, cols=cols)


def cut(tensor: tf.Tensor, begin: list[Any], end: list[Any]) -> tf.Tensor:
    """The elements from `begin` to `end` (exclusive; None is the dimension's end)."""
    open_ended = sum(1 << i for i, stop in enumerate(end) if stop is None)
    stops = [0 if stop is None else stop for stop in end]
    return raw.StridedSlice(
        input=tensor,
        begin=integers(begin),
        end=integers(stops),
        strides=integers([1] * len(begin)),
        end_mask=open_ended,
    )


def integers(values: Any) -> Any:
    """Sizes, places or dimensions as an op takes them. An eager op makes a tensor of a list on a slow path: a call of
    `Pad` takes 24 us, and 12 with the tensor."""
    return tf.constant(values, tf.int32) if tf.executing_eagerly() else values
