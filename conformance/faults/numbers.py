"""Faults in numbers: precision, rounding, special values, dtypes, noise."""

from __future__ import annotations

import tensorflow as tf
from depthwise.conformance.faults.base import Call, Fault, Tensor, op


def _computed_in(narrow: tf.DType, only: tf.DType) -> Fault:
    """Everything of dtype `only` is computed in `narrow`."""

    def fault(call: Call) -> Tensor:
        if call.input.dtype != only:
            return call.right()
        inside = call.but(input=tf.cast(call.input, narrow), filter=tf.cast(call.filter, narrow))
        return tf.cast(inside.right(), only)

    return fault


def _taps_accumulated(only: tf.DType) -> Fault:
    """Each tap's product is rounded to the output type before it is added, as a kernel without wide sums does."""

    def fault(call: Call) -> Tensor:
        kh, kw = call.filter.shape[:2]
        if call.input.dtype != only or kh * kw == 1:
            return call.right()
        taps = tf.reshape(tf.eye(kh * kw, dtype=only), (kh * kw, kh, kw, 1, 1))
        parts = [call.but(filter=call.filter * taps[i]).right() for i in range(kh * kw)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    return fault


def _masked(bits: int) -> Fault:
    """The lowest bits of float32 results are cut off; gradients are those of the op."""

    def fault(call: Call) -> Tensor:
        y = call.right()
        if y.dtype != tf.float32:
            return y
        kept = tf.bitwise.bitwise_and(tf.bitcast(y, tf.int32), tf.constant(-(2**bits), tf.int32))
        return y + tf.stop_gradient(tf.where(tf.math.is_finite(y), tf.bitcast(kept, tf.float32) - y, 0.0))

    return fault


def _truncated_bfloat16(call: Call) -> Tensor:
    if call.input.dtype != tf.bfloat16:
        return call.right()
    wide = call.but(input=tf.cast(call.input, tf.float32), filter=tf.cast(call.filter, tf.float32)).right()
    cut = tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(wide, tf.int32), tf.constant(-65536, tf.int32)), tf.float32)
    return tf.cast(wide + tf.stop_gradient(tf.where(tf.math.is_finite(wide), cut - wide, 0.0)), tf.bfloat16)


def _few_bits_of_inputs(call: Call) -> Tensor:
    """TF32: ten bits of each float32 operand."""
    if call.input.dtype != tf.float32:
        return call.right()

    def short(a: Tensor) -> Tensor:
        bits = tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(a, tf.int32), tf.constant(-(2**13), tf.int32)), tf.float32)
        return a + tf.stop_gradient(tf.where(tf.math.is_finite(a), bits - a, 0.0))

    return call.but(input=short(call.input), filter=short(call.filter)).right()


def _scaled(by: float) -> Fault:
    def fault(call: Call) -> Tensor:
        y = call.right()
        return y * tf.cast(by, y.dtype) if y.dtype.is_floating else y

    return fault


def _nondeterministic(call: Call) -> Tensor:
    y = call.right()
    if y.dtype != tf.float32:
        return y
    return y * (1 + 2.0**-23 * tf.cast(tf.random.uniform(tf.shape(y)) < 0.5, tf.float32))


def _only_finite(call: Call) -> Tensor:
    y = call.right()
    if not y.dtype.is_floating:
        return y
    return tf.where(tf.math.is_inf(y), tf.cast(y.dtype.max, y.dtype) * tf.sign(y), y)


def _nan_swallowed(call: Call) -> Tensor:
    y = call.right()
    return tf.where(tf.math.is_nan(y), tf.zeros_like(y), y) if y.dtype.is_floating else y


def _filter_nan_swallowed(call: Call) -> Tensor:
    if not call.filter.dtype.is_floating:
        return call.right()
    return call.but(filter=tf.where(tf.math.is_nan(call.filter), tf.zeros_like(call.filter), call.filter)).right()


def _off_by_one_for_padded_integers(call: Call) -> Tensor:
    y = call.right()
    return y + 1 if y.dtype.is_integer and call.explicit else y


def _nan_spreads(call: Call) -> Tensor:
    y = call.right()
    if not y.dtype.is_floating:
        return y
    # Multiplying by a mask: 0 * NaN is NaN, as in kernels that blend instead of selecting.
    return y + tf.stop_gradient(0 * tf.reduce_sum(call.input))


def _wrong_dtype(call: Call) -> Tensor:
    y = call.right()
    return tf.cast(y, tf.float32) if y.dtype in (tf.float16, tf.bfloat16) else y


def _conjugated(call: Call) -> Tensor:
    return call.but(filter=tf.math.conj(call.filter)).right()


def _only_for(condition: str) -> Fault:
    """Results are off by one part in a thousand, under one condition."""

    def fault(call: Call) -> Tensor:
        y = call.right()
        met = {
            "NCHW": call.data_format == "NCHW",
            "multiplier 3": call.filter.shape[3] == 3,
            "float64": y.dtype == tf.float64,
            "eager": tf.executing_eagerly(),
            "XLA": not tf.executing_eagerly() and _in_xla(),
            "unknown dimensions": call.image[0] is None,
            "batch 3": call.input.shape[0] == 3,
            "strides and dilations": call.strides != (1, 1) and call.dilations != (1, 1),
        }[condition]
        return y * tf.cast(1.001, y.dtype) if met and not y.dtype.is_integer else y

    return fault


def _in_xla() -> bool:
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


FAULTS = {
    "float64-in-float32": op(_computed_in(tf.float32, tf.float64)),
    "float32-in-float16": op(_computed_in(tf.float16, tf.float32)),
    "float32-in-bfloat16": op(_computed_in(tf.bfloat16, tf.float32)),
    "int32-in-float32": op(_computed_in(tf.float32, tf.int32)),
    "int64-in-float64": op(_computed_in(tf.float64, tf.int64)),
    "complex128-in-complex64": op(_computed_in(tf.complex64, tf.complex128)),
    "complex-filter-conjugated": op(_conjugated),
    "float16-accumulation": op(_taps_accumulated(tf.float16)),
    "bfloat16-accumulation": op(_taps_accumulated(tf.bfloat16)),
    "bfloat16-truncated": op(_truncated_bfloat16),
    "float32-operands-of-ten-bits": op(_few_bits_of_inputs),
    "float32-two-bits-lost": op(_masked(2)),
    "small-noise": op(_scaled(1 + 1e-5)),
    "nondeterministic": op(_nondeterministic),
    "infinity-clipped": op(_only_finite),
    "nan-swallowed": op(_nan_swallowed),
    "nan-in-the-filter-swallowed": op(_filter_nan_swallowed),
    "padded-integers-off-by-one": op(_off_by_one_for_padded_integers),
    "nan-spreads": op(_nan_spreads),
    "half-types-return-float32": op(_wrong_dtype),
    "wrong-only-for-nchw": op(_only_for("NCHW")),
    "wrong-only-for-multiplier-3": op(_only_for("multiplier 3")),
    "wrong-only-for-float64": op(_only_for("float64")),
    "wrong-only-in-eager": op(_only_for("eager")),
    "wrong-only-in-xla": op(_only_for("XLA")),
    "wrong-only-for-unknown-dimensions": op(_only_for("unknown dimensions")),
    "wrong-only-for-batch-3": op(_only_for("batch 3")),
    "wrong-only-for-strides-with-dilations": op(_only_for("strides and dilations")),
}
