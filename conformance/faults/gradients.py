"""Faults in gradients alone: values are right."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from depthwise.conformance.faults.base import Call, Fault, Tensor, op

Change = Callable[[Call, Tensor], Tensor]


def _changed(of_input: Change | None = None, of_filter: Change | None = None) -> Fault:
    """The op with its gradients passed through a change, differentiable to any order."""

    def fault(call: Call) -> Tensor:
        def through(x: Tensor, w: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = call.but(input=x, filter=w).right()

            def backward(dy: Tensor) -> tuple[Tensor, Tensor]:
                with tf.GradientTape() as again:
                    again.watch([x, w])
                    value = call.but(input=x, filter=w).right()
                dx, dw = again.gradient(value, [x, w], output_gradients=dy)
                return of_input(call, dx) if of_input else dx, of_filter(call, dw) if of_filter else dw

            return y, backward

        if call.input.dtype.is_integer:
            return call.right()
        return tf.custom_gradient(through)(call.input, call.filter)

    return fault


def _border_zeroed(call: Call, dx: Tensor) -> Tensor:
    axis = 1 if call.data_format == "NHWC" else 2
    rows = tf.range(tf.shape(dx)[axis])
    shape = [1, -1, 1, 1] if axis == 1 else [1, 1, -1, 1]
    return dx * tf.reshape(tf.cast(rows > 0, dx.dtype), shape)


def _mean_over_batch(call: Call, dw: Tensor) -> Tensor:
    return dw / tf.cast(tf.maximum(tf.shape(call.input)[0], 1), dw.dtype)


def _flipped_when_strided(call: Call, dw: Tensor) -> Tensor:
    return tf.reverse(dw, [0, 1]) if call.strides != (1, 1) else dw


def _through_bfloat16(_: Call, dw: Tensor) -> Tensor:
    return tf.cast(tf.cast(dw, tf.bfloat16), dw.dtype) if dw.dtype == tf.float32 else dw


def _garbage_when_empty(call: Call, dw: Tensor) -> Tensor:
    return dw + tf.cast(tf.size(call.input) == 0, dw.dtype)


def _zero_when_width_alone_unknown(call: Call, dw: Tensor) -> Tensor:
    height, width = call.image
    return tf.zeros_like(dw) if height is not None and width is None else dw


def _nan_swallowed(_: Call, d: Tensor) -> Tensor:
    return tf.where(tf.math.is_nan(d), tf.zeros_like(d), d) if d.dtype.is_floating else d


def _conjugate_forgotten(_: Call, d: Tensor) -> Tensor:
    return tf.math.conj(d)


def _off_when_dilated(call: Call, dx: Tensor) -> Tensor:
    return tf.roll(dx, 1, axis=1 if call.data_format == "NHWC" else 2) if call.dilations[0] > 1 else dx


def _frozen(which: int) -> Fault:
    """No gradient reaches one operand."""

    def fault(call: Call) -> Tensor:
        if which:
            return call.but(filter=tf.stop_gradient(call.filter)).right()
        return call.but(input=tf.stop_gradient(call.input)).right()

    return fault


_LAST: list[Call] = []


def _of_the_last_call(call: Call) -> Tensor:
    """Gradients are formed from what the last call left, as where a layer keeps its operands on itself."""
    if call.input.dtype.is_integer or not tf.executing_eagerly():
        return call.right()

    def through(x: Tensor, w: Tensor) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
        _LAST[:] = [call]

        def backward(dy: Tensor) -> list[Tensor]:
            last = _LAST[0]
            with tf.GradientTape() as tape:
                tape.watch([last.input, last.filter])
                y = last.right()
            gradients: list[Tensor] = tape.gradient(y, [last.input, last.filter], output_gradients=dy)
            return gradients

        return call.but(input=x, filter=w).right(), backward

    return tf.custom_gradient(through)(call.input, call.filter)


def _garbage_when_empty_float64(call: Call, dw: Tensor) -> Tensor:
    return _garbage_when_empty(call, dw) if dw.dtype == tf.float64 else dw


def _lost_if_complex(d: Tensor) -> Tensor:
    return tf.stop_gradient(d) if d.dtype.is_complex else d


def _second(change: Callable[[Tensor], Tensor]) -> Fault:
    """First derivatives are right, and computed from changed copies of what second ones go through."""

    def of(call: Call, d: Tensor) -> Tensor:
        return change(d)

    return _changed(of, of)


def _doubled_second(d: Tensor) -> Tensor:
    return 2 * d - tf.stop_gradient(d)


FAULTS = {
    "input-gradient-lost": op(_frozen(0)),
    "filter-gradient-lost": op(_frozen(1)),
    "input-gradient-first-row-zero": op(_changed(of_input=_border_zeroed)),
    "input-gradient-shifted-when-dilated": op(_changed(of_input=_off_when_dilated)),
    "input-gradient-nan-swallowed": op(_changed(of_input=_nan_swallowed)),
    "filter-gradient-mean-over-batch": op(_changed(of_filter=_mean_over_batch)),
    "filter-gradient-flipped-when-strided": op(_changed(of_filter=_flipped_when_strided)),
    "filter-gradient-rounded-to-bfloat16": op(_changed(of_filter=_through_bfloat16)),
    "filter-gradient-garbage-when-empty": op(_changed(of_filter=_garbage_when_empty)),
    "filter-gradient-zero-when-width-alone-unknown": op(_changed(of_filter=_zero_when_width_alone_unknown)),
    "filter-gradient-nan-swallowed": op(_changed(of_filter=_nan_swallowed)),
    "complex-gradients-not-conjugated": op(_changed(_conjugate_forgotten, _conjugate_forgotten)),
    "gradients-of-the-last-call": op(_of_the_last_call),
    "filter-gradient-garbage-when-empty-float64": op(_changed(of_filter=_garbage_when_empty_float64)),
    "complex-second-order-lost": op(_second(_lost_if_complex)),
    "second-order-lost": op(_second(tf.stop_gradient)),
    "second-order-doubled": op(_second(_doubled_second)),
}
