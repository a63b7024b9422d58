"""The op as shifted multiply-adds of elementary raw ops, which XLA fuses into a few passes.

Outside XLA every multiply-add is a pass over memory of its own: right, and slow.
"""

from __future__ import annotations

from types import ModuleType

import tensorflow as tf
from depthwise.ops.lowerings.base import Contraction, Mode
from depthwise.ops.lowerings.taps import commuted, correlate, padded, stencil, strided, tap_by_tap
from depthwise.ops.lowerings.taps.layout import is_large, is_sized
from depthwise.ops.spec import ConvSpec


class Taps:
    """Shifted multiply-adds that XLA fuses into single passes."""

    name = "taps"

    def refuses(self, spec: ConvSpec, contraction: Contraction, mode: Mode) -> str | None:
        return None

    def output(self, spec: ConvSpec, input: tf.Tensor, filter: tf.Tensor) -> tf.Tensor:
        return _formulation(spec).output(spec, input, filter)

    def input_grad(self, spec: ConvSpec, filter: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        formulation = _formulation(spec)
        compute = (strided if formulation is stencil and spec.is_strided else formulation).input_grad
        return compute(spec, filter, dy, sizes)

    def filter_grad(self, spec: ConvSpec, input: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        if spec.far_apart:
            return tap_by_tap.filter_grad(spec, input, dy, sizes)
        compute = (correlate if is_sized(spec) else padded).filter_grad
        return compute(spec, input, dy, sizes)


def _formulation(spec: ConvSpec) -> ModuleType:
    """The module that computes output and input gradient for such sizes (`strided` the latter, where there is a stride
    and this is `stencil`)."""
    if not spec.known:
        return padded
    if spec.far_apart:
        return tap_by_tap
    if not is_large(spec):
        return stencil
    return commuted if commuted.is_covered(spec) else padded
