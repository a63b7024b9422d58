"""A contraction inside `tf.vectorized_map`: all elements of the map as one convolution, and the gradients of that.

Elements that share a filter are one convolution of a larger batch. All others are one of more channels, for channels do
not meet; what the elements share is repeated for that, and its gradient is the sum of theirs. So there is one
convolution, however many the elements (even none), of maps in maps too, and it is differentiable to any order as any
other is.

TensorFlow would map what a lowering is made of, op by op: kernels of which it knows no vector form in a loop over the
elements, and an island as single ops that nothing fuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import tensorflow as tf
from depthwise.ops.geometry import Size
from depthwise.ops.lowerings.base import Contraction, Lowering, Sizes
from depthwise.ops.mode import is_under_xla
from depthwise.ops.sizes import sizes_of, told
from depthwise.ops.spec import Dim

if TYPE_CHECKING:
    from depthwise.ops.gradients import Trilinear

_ARGUMENTS = {"output": ("x", "w", "dy"), "input_grad": ("w", "dy", "x"), "filter_grad": ("x", "dy", "w")}
"""Of the trilinear form: the operands of a contraction, and what its result and upstream gradient have the shape of."""

MOST_REPEATED = 4
"""Most elements of a tensor that is repeated, for each that the others, or the result, have of their own: as many as an
image has where the stride is 2. The Jacobian of 2x28x28x8 k3 s2 by its filter takes 43 ms in a `tf.function`, and 120
in TensorFlow's loop."""


@dataclass(frozen=True)
class MappedContraction:
    """A contraction, and the maps around it, if there are any.

    Attributes:
      trilinear: the convolution of one element.
      stacked: for each map, the outermost first, whether the operands have its elements as a leading dimension. The
        result, and its upstream gradient, have those of all.
    """

    trilinear: Trilinear
    contraction: Contraction
    stacked: tuple[tuple[bool, bool], ...] = ()

    def __str__(self) -> str:
        return f"{self.trilinear.spec} {self.contraction} {self.stacked}"

    def mapped(self, stacked: tuple[bool, bool]) -> MappedContraction:
        """The same with one more map, around all others."""
        return replace(self, stacked=(stacked, *self.stacked))

    def result(self, a: tf.Tensor, b: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor | None:
        """The results of all elements, of this shape; None where TensorFlow's way is the better one, or the only one.

        The better one where XLA fuses what TensorFlow makes of the lowering, and where what the elements share is large
        beside what each has. The only one where how large a result is will be known at run time alone, or how many
        elements there are (of neither operand, as where there is but one).
        """
        sizes = shape[len(self.stacked) :]
        is_told = all(map(any, self.stacked)) and sizes.is_fully_defined()
        if self._is_fused() or not is_told or not self._repeats_little():
            return None
        tensors = self._told(a, b)
        folds = self._folds(tensors)
        whole = folds[_ARGUMENTS[self.contraction][-1]]
        operands = [folds[name].fold(tensor) for name, tensor in tensors.items()]
        if self.contraction != "output":
            operands.append(_tensor_or_tuple(whole.folded(sizes.as_list())))
        return whole.unfold(getattr(self._of_all(folds), self.contraction)(*operands), sizes.as_list())

    def gradients(self, a: tf.Tensor, b: tf.Tensor, g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The gradients by the operands, given the result's."""
        if not self.stacked:
            return self.trilinear.gradients(self.contraction, a, b, g)
        tensors = self._told(a, b, tf.convert_to_tensor(g))
        folds = self._folds(tensors)
        folded = [folds[name].fold(tensor) for name, tensor in tensors.items()]
        found = zip(tensors, self._of_all(folds).gradients(self.contraction, *folded), strict=False)
        da, db = (folds[name].unfold(d, folds[name].of_one(tensors[name])) for name, d in found)
        return da, db

    @property
    def _maps(self) -> dict[str, tuple[bool, ...]]:
        """Of each argument, whether it has the elements of each map."""
        all_of_them = (True,) * len(self.stacked)
        return dict(zip(_ARGUMENTS[self.contraction], (*zip(*self.stacked, strict=True), all_of_them), strict=True))

    @property
    def _shapes(self) -> dict[str, tuple[Dim, ...]]:
        """Of each argument, the shape of one element."""
        spec = self.trilinear.spec
        return {"x": spec.input_shape, "w": spec.filter_shape, "dy": spec.output_shape}

    def _is_fused(self) -> bool:
        """Whether this is compiled by XLA from ops that each have a vector form. To make elements channels, and back,
        takes passes that these need not: gradients by the filter of 16 single 56x56x64 k3 take 3.2 ms, and 10."""
        lowering: Lowering = getattr(self.trilinear.plan, self.contraction)
        return lowering.name == "taps" and is_under_xla()

    def _repeats_little(self) -> bool:
        """Whether no operand is repeated for the elements that is large beside what they have of their own."""
        maps = self._maps
        known = {name: shape for name, shape in self._shapes.items() if None not in shape}
        elements = {name: prod(shape) for name, shape in known.items()}  # type: ignore[arg-type]
        own = max(elements.get(name, 0) for name, of in maps.items() if all(of))
        repeated = [name for name, of in maps.items() if not all(of) and (name != "w" or any(of))]
        return all(name in known and elements[name] <= MOST_REPEATED * own for name in repeated)

    def _told(self, *tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        """The tensors by name, told what is known of their shapes."""
        maps, shapes = self._maps, self._shapes
        names = zip(_ARGUMENTS[self.contraction], tensors, strict=False)
        return {name: told(tensor, [None] * sum(maps[name]) + [*shapes[name]]) for name, tensor in names}

    def _folds(self, tensors: dict[str, tf.Tensor]) -> dict[str, _Fold]:
        """How each argument takes part in the one convolution."""
        maps = self._maps
        counts = []
        for at in range(len(self.stacked)):
            name = next(name for name in tensors if maps[name][at])
            counts.append(sizes_of(tensors[name])[sum(maps[name][:at])])
        channels = 3 if self.trilinear.spec.data_format == "NHWC" else 1
        into = {"x": channels, "w": 2, "dy": channels} if any(maps["w"]) else {"x": 0, "w": None, "dy": 0}
        return {name: _Fold(maps[name], counts, into[name]) for name in maps}

    def _of_all(self, folds: dict[str, _Fold]) -> Trilinear:
        """The one convolution that those of all elements are."""
        spec, counts = self.trilinear.spec, folds["x"].counts
        if folds["w"].into is None:
            return replace(self.trilinear, spec=replace(spec, batch=_times(spec.batch, counts)))
        return replace(self.trilinear, spec=replace(spec, channels=_times(spec.channels, counts)))


@dataclass(frozen=True)
class _Fold:
    """How the elements of a tensor become a part of one of its dimensions.

    Attributes:
      stacked: for each map, whether the tensor has its elements as a leading dimension.
      counts: how many elements each map has.
      into: the dimension, counted in one element; None for a tensor that stays as it is, shared by all.
    """

    stacked: tuple[bool, ...]
    counts: list[Size]
    into: int | None

    def of_one(self, tensor: tf.Tensor) -> list[Size]:
        """The sizes of one element."""
        return sizes_of(tensor)[sum(self.stacked) :]

    def folded(self, sizes: Sequence[Size]) -> list[Size]:
        """The sizes of what elements of these sizes become."""
        return [size * prod(self.counts) if at == self.into else size for at, size in enumerate(sizes)]

    def fold(self, tensor: tf.Tensor) -> tf.Tensor:
        """All elements as one."""
        if self.into is None:
            return tensor
        sizes = self.of_one(tensor)
        if not all(self.stacked):
            for at, has_elements in enumerate(self.stacked):
                tensor = tensor if has_elements else tf.expand_dims(tensor, at)
            tensor = tf.broadcast_to(tensor, tf.stack([*self.counts, *sizes]))
        if self.into:
            tensor = tf.transpose(tf.reshape(tensor, tf.stack([prod(self.counts), *sizes])), self._order)
        return tf.reshape(tensor, tf.stack(self.folded(sizes)))

    def unfold(self, tensor: tf.Tensor, sizes: Sequence[Size]) -> tf.Tensor:
        """The transpose of `fold`: elements of these sizes, summed over the maps of which the tensor has none."""
        if self.into is None:
            return tensor
        stack = [prod(self.counts), *sizes]
        if self.into:
            order = self._order
            tensor = tf.reshape(tensor, tf.stack([stack[at] for at in order]))
            tensor = tf.transpose(tensor, [order.index(at) for at in range(len(order))])
        tensor = tf.reshape(tensor, tf.stack([*self.counts, *sizes]))
        shared = [at for at, has_elements in enumerate(self.stacked) if not has_elements]
        return tf.reduce_sum(tensor, shared) if shared else tensor

    @property
    def _order(self) -> list[int]:
        """The dimensions of stacked elements, their number put just before the one that it becomes a part of."""
        assert self.into is not None
        return [*range(1, self.into + 1), 0, *range(self.into + 1, 5)]


def _times(size: Dim, counts: list[Size]) -> Dim:
    known = [size, *counts]
    return prod(known) if all(isinstance(count, int) for count in known) else None


def _tensor_or_tuple(sizes: list[Size]) -> Sizes:
    return tuple(sizes) if all(isinstance(size, int) for size in sizes) else tf.stack(sizes)
