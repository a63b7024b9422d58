"""The gradients of a contraction, and of all the rows that `tf.vectorized_map` maps one over.

Rows that share a filter are one convolution of a larger batch. All others are one of more channels, for channels do not
meet; what the rows share is repeated for that, and its gradient is the sum of theirs. So there is one convolution,
however many the rows (even none), of maps in maps too, and it is differentiable to any order as any other is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import tensorflow as tf
from depthwise.ops.geometry import Size
from depthwise.ops.lowerings.base import Contraction
from depthwise.ops.sizes import sizes_of, told
from depthwise.ops.spec import Dim

if TYPE_CHECKING:
    from depthwise.ops.gradients import Trilinear

_ARGUMENTS = {"output": ("x", "w", "dy"), "input_grad": ("w", "dy", "x"), "filter_grad": ("x", "dy", "w")}
"""Of the trilinear form: the operands of a contraction, and what its upstream gradient stands in the place of."""


@dataclass(frozen=True)
class ContractionGradients:
    """(operand, operand, upstream gradient) -> the gradients of the contraction by its operands.

    Attributes:
      stacked: for each map around the contraction, the outermost first, whether the operands have its rows as a leading
        dimension. The upstream gradient has those of all.
    """

    trilinear: Trilinear
    contraction: Contraction
    stacked: tuple[tuple[bool, bool], ...] = ()

    def __str__(self) -> str:
        return f"{self.trilinear.spec} {self.contraction} {self.stacked}"

    def mapped(self, stacked: tuple[bool, bool]) -> ContractionGradients:
        """The gradients where one more map is around all others."""
        return replace(self, stacked=(stacked, *self.stacked))

    def __call__(self, a: tf.Tensor, b: tf.Tensor, g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if not self.stacked:
            return self.trilinear.gradients(self.contraction, a, b, g)
        arguments, spec = _ARGUMENTS[self.contraction], self.trilinear.spec
        depth = len(self.stacked)
        maps = dict(zip(arguments, (*zip(*self.stacked, strict=True), (True,) * depth), strict=True))
        shapes = {"x": spec.input_shape, "w": spec.filter_shape, "dy": spec.output_shape}
        tensors = {
            name: told(tensor, [None] * sum(maps[name]) + [*shapes[name]])
            for name, tensor in zip(arguments, (a, b, tf.convert_to_tensor(g)), strict=True)
        }
        counts = sizes_of(tensors[arguments[-1]])[:depth]
        # What the rows become a part of: the batch, or the channels.
        share_a_filter = not any(maps["w"])
        into = {"x": 0, "dy": 0} if share_a_filter else {"x": self._channels, "dy": self._channels, "w": 2}
        stacks = {
            name: _stack(tensor, maps[name], counts) if name in into else tensor for name, tensor in tensors.items()
        }
        merged = [_merged(stack, into[name]) if name in into else stack for name, stack in stacks.items()]
        found = self._of_one(counts, share_a_filter).gradients(self.contraction, *merged)
        da, db = (
            _unstacked(_split(d, into[name], sizes_of(stacks[name])), maps[name], counts) if name in into else d
            for name, d in zip(arguments[:2], found, strict=True)
        )
        return da, db

    @property
    def _channels(self) -> int:
        return 3 if self.trilinear.spec.data_format == "NHWC" else 1

    def _of_one(self, counts: list[Size], share_a_filter: bool) -> Trilinear:
        """The one convolution that all rows are."""
        spec = self.trilinear.spec
        if share_a_filter:
            return replace(self.trilinear, spec=replace(spec, batch=_times(spec.batch, counts)))
        return replace(self.trilinear, spec=replace(spec, channels=_times(spec.channels, counts)))


def _times(size: Dim, counts: list[Size]) -> Dim:
    known = [size, *counts]
    return prod(known) if all(isinstance(count, int) for count in known) else None


def _stack(tensor: tf.Tensor, of: tuple[bool, ...], counts: list[Size]) -> tf.Tensor:
    """A tensor with the rows `of` some maps, as one that has the rows of all in its first dimension."""
    sizes = sizes_of(tensor)[sum(of) :]
    if not all(of):
        for at, has_rows in enumerate(of):
            tensor = tensor if has_rows else tf.expand_dims(tensor, at)
        tensor = tf.broadcast_to(tensor, tf.stack([*counts, *sizes]))
    return tf.reshape(tensor, tf.stack([prod(counts), *sizes]))


def _unstacked(tensor: tf.Tensor, of: tuple[bool, ...], counts: list[Size]) -> tf.Tensor:
    """The transpose of `_stack`."""
    tensor = tf.reshape(tensor, tf.stack([*counts, *sizes_of(tensor)[1:]]))
    return tensor if all(of) else tf.reduce_sum(tensor, [at for at, has_rows in enumerate(of) if not has_rows])


def _merged(stack: tf.Tensor, into: int) -> tf.Tensor:
    """Rows as part of the dimension that is number `into` in each."""
    sizes = sizes_of(stack)
    order = _order(into)
    merged = [size * sizes[0] if at == into else size for at, size in enumerate(sizes[1:])]
    return tf.reshape(tf.transpose(stack, order) if into else stack, tf.stack(merged))


def _split(tensor: tf.Tensor, into: int, sizes: list[Size]) -> tf.Tensor:
    """The transpose of `_merged`: a stack of these sizes."""
    order = _order(into)
    split = tf.reshape(tensor, tf.stack([sizes[at] for at in order]))
    return tf.transpose(split, [order.index(at) for at in range(len(order))]) if into else split


def _order(into: int) -> list[int]:
    """The dimensions of a stack, its rows just before number `into` of each."""
    return [*range(1, into + 1), 0, *range(into + 1, 5)]
