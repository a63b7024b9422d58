"""The op as shifted multiply-adds of elementary raw ops, which XLA fuses into a few passes.

Outside XLA every multiply-add is a pass over memory of its own: right, and slow.
"""

from __future__ import annotations

from dataclasses import replace

import tensorflow as tf
from depthwise.ops.lowerings.base import Contraction
from depthwise.ops.lowerings.taps import correlate, padded, stencil
from depthwise.ops.spec import ConvSpec


class Taps:
    """Shifted multiply-adds that XLA fuses into single passes."""

    name = "taps"

    def refuses(self, spec: ConvSpec, contraction: Contraction) -> str | None:
        if spec.rows.taps is None or spec.cols.taps is None:
            return "the filter's height and width must be known when the op is traced, to write out its taps"
        return None

    def output(self, spec: ConvSpec, input: tf.Tensor, filter: tf.Tensor) -> tf.Tensor:
        compute = (stencil if _unrolls(spec) else padded).output
        return _narrow(spec, compute(_wide(spec), _widen(spec, input), _widen(spec, filter)))

    def input_grad(self, spec: ConvSpec, filter: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        compute = (stencil if _unrolls(spec) else padded).input_grad
        return _narrow(spec, compute(_wide(spec), _widen(spec, filter), _widen(spec, dy), sizes))

    def filter_grad(self, spec: ConvSpec, input: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        compute = (correlate if spec.known else padded).filter_grad
        return _narrow(spec, compute(_wide(spec), _widen(spec, input), _widen(spec, dy), sizes))


def _unrolls(spec: ConvSpec) -> bool:
    return spec.known and not padded.is_large(spec)


# Half types accumulate in float32, so that a result is rounded once, at the end. (Integers need no wider type:
# their sums are exact modulo 2**bits, so a result that fits is right whatever wrapped on the way.)


def _is_half(spec: ConvSpec) -> bool:
    return spec.dtype in ("float16", "bfloat16")


def _wide(spec: ConvSpec) -> ConvSpec:
    return replace(spec, dtype="float32") if _is_half(spec) else spec


def _widen(spec: ConvSpec, tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tensor, tf.float32) if _is_half(spec) else tensor


def _narrow(spec: ConvSpec, tensor: tf.Tensor) -> tf.Tensor:
    return tf.cast(tensor, spec.dtype) if _is_half(spec) else tensor
