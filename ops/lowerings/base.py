"""What a lowering is: a way to compute the three contractions of the op's trilinear form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import tensorflow as tf
from depthwise.ops.mode import Mode
from depthwise.ops.spec import ConvSpec

Contraction: TypeAlias = Literal["output", "input_grad", "filter_grad"]
CONTRACTIONS: tuple[Contraction, ...] = ("output", "input_grad", "filter_grad")
Sizes: TypeAlias = tf.Tensor | tuple[int, ...]
"""The sizes of a result: numbers where all are known, else an int32 tensor."""


class Lowering(Protocol):
    """A way to compute the op and its two gradients.

    All three take and return tensors in the spec's data format and dtype, which is never a half type: what a result is
    accumulated in is decided once, before (`ConvSpec.accumulated`). A gradient is told the sizes of its result;
    where the spec knows them, they may be ignored.
    """

    name: str

    def refuses(self, spec: ConvSpec, contraction: Contraction, mode: Mode) -> str | None:
        """Why this lowering cannot do this contraction, or None if it can."""
        ...

    def output(self, spec: ConvSpec, input: tf.Tensor, filter: tf.Tensor) -> tf.Tensor:
        """The convolution, of the spec's output shape."""
        ...

    def input_grad(self, spec: ConvSpec, filter: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        """Of the shape of the input (`sizes`): the contraction of filter and output gradient."""
        ...

    def filter_grad(self, spec: ConvSpec, input: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        """Of the shape of the filter (`sizes`): the contraction of input and output gradient."""
        ...


@dataclass(frozen=True)
class Plan:
    """Which lowering computes each contraction."""

    output: Lowering
    input_grad: Lowering
    filter_grad: Lowering
