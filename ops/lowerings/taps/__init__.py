"""The op as shifted multiply-adds of elementary raw ops, which XLA fuses into a few passes.

Outside XLA every multiply-add is a pass over memory of its own: right, and slow.
"""

from __future__ import annotations

from types import ModuleType

import tensorflow as tf
from depthwise.ops.lowerings.base import Contraction, Sizes
from depthwise.ops.lowerings.taps import (
    commuted,
    correlate,
    end_to_end,
    microbatches,
    padded,
    stencil,
    strided,
    tap_by_tap,
    unpadded,
)
from depthwise.ops.lowerings.taps.layout import is_large
from depthwise.ops.mode import Mode
from depthwise.ops.spec import ConvSpec


class Taps:
    """Shifted multiply-adds that XLA fuses into a few passes."""

    name = "taps"

    def __init__(self, in_memory: bool = False, in_microbatches: bool = False) -> None:
        """`in_memory`: whether images lie in buffers, and XLA computes nothing to fuse into what reads them.
        `in_microbatches`: whether filter gradients may be loops, for what runs on a CPU."""
        self.in_memory, self.in_microbatches = in_memory, in_microbatches

    def refuses(self, spec: ConvSpec, contraction: Contraction, mode: Mode) -> str | None:
        return None

    def output(self, spec: ConvSpec, input: tf.Tensor, filter: tf.Tensor) -> tf.Tensor:
        if end_to_end.pays(spec, "output"):
            return end_to_end.output(spec, input, filter, self.in_memory)
        return _formulation(spec, "output").output(spec, input, filter)

    def input_grad(self, spec: ConvSpec, filter: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        if end_to_end.pays(spec, "input_grad"):
            return end_to_end.input_grad(spec, filter, dy, self.in_memory)
        return _formulation(spec, "input_grad").input_grad(spec, filter, dy, sizes)

    def filter_grad(self, spec: ConvSpec, input: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        formulation = _formulation(spec, "filter_grad")
        if self.in_microbatches and formulation is correlate:
            formulation = microbatches
        return formulation.filter_grad(spec, input, dy, sizes)


def _formulation(spec: ConvSpec, contraction: Contraction) -> ModuleType:
    """The module that computes this contraction for such sizes, unless `end_to_end` pays."""
    if spec.far_apart:
        return tap_by_tap
    if contraction == "filter_grad":
        return correlate if spec.is_sized else padded
    if not spec.known:
        return padded
    if contraction == "input_grad" and strided.pays(spec):
        return strided
    if is_large(spec):
        return commuted if commuted.is_covered(spec) else padded
    return unpadded if unpadded.pays(spec) else stencil
