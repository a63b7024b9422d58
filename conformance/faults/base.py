"""What the faults are planted in: this package's op, and a call's arguments as something to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf
from depthwise.ops import depthwise_conv2d

Tensor = Any
Fault = Callable[["Call"], Tensor]


@dataclass(frozen=True)
class Call:
    """The arguments of one call, with strides, dilations and explicit pads as (height, width) pairs."""

    input: Tensor
    filter: Tensor
    strides: tuple[int, int]
    padding: Any
    data_format: str
    dilations: tuple[int, int]

    def but(self, **changes: Any) -> Call:
        """This call with some arguments changed."""
        return replace(self, **changes)

    @property
    def image(self) -> tuple[int | None, int | None]:
        """Height and width of the input, as far as they are known."""
        shape = self.input.shape
        return (shape[1], shape[2]) if self.data_format == "NHWC" else (shape[2], shape[3])

    @property
    def span(self) -> tuple[int, int]:
        """Height and width that the dilated filter covers."""
        pairs = zip(self.filter.shape[:2], self.dilations, strict=True)
        height, width = ((taps - 1) * rate + 1 for taps, rate in pairs)
        return height, width

    @property
    def explicit(self) -> bool:
        """Whether the padding is given in numbers."""
        return not isinstance(self.padding, str)

    def right(self) -> Tensor:
        """What this package's op makes of these arguments."""
        nhwc = self.data_format == "NHWC"

        def four(pair: Any, rest: Any) -> list[Any]:
            return [rest, *pair, rest] if nhwc else [rest, rest, *pair]

        padding = four(self.padding, (0, 0)) if self.explicit else self.padding
        return depthwise_conv2d(
            self.input, self.filter, four(self.strides, 1), padding, self.data_format, list(self.dilations)
        )


def op(fault: Fault) -> Callable[..., Tensor]:
    """A fault as a callable with the signature of `tf.nn.depthwise_conv2d`.

    A malformed call goes to the op as it is, which refuses it: faults in refusing are planted apart.
    """

    def faulty(
        input: Tensor, filter: Tensor, strides: Any, padding: Any, data_format: str = "NHWC", dilations: Any = None
    ) -> Tensor:
        try:
            call = _call(input, filter, strides, padding, data_format, dilations)
        except (TypeError, ValueError, IndexError, AttributeError):
            return depthwise_conv2d(input, filter, strides, padding, data_format, dilations)
        return fault(call)

    return faulty


def _call(input: Tensor, filter: Tensor, strides: Any, padding: Any, data_format: str, dilations: Any) -> Call:
    well_formed = (
        data_format in ("NHWC", "NCHW")
        and input.shape.rank == 4
        and filter.shape.rank == 4
        and input.dtype == filter.dtype
        and input.shape[3 if data_format == "NHWC" else 1] == filter.shape[2]
        and filter.shape[0]
        and len(strides) == 4
        and 0 < min(strides) <= max(strides) < 1000
        and len(dilations or (1, 1)) == 2
        and min(dilations or (1, 1)) > 0
        and (padding in ("SAME", "VALID") if isinstance(padding, str) else len(padding) == 4)
    )
    spatial = slice(1, 3) if data_format == "NHWC" else slice(2, 4)
    rest = slice(0, 4, 3) if data_format == "NHWC" else slice(0, 2)
    if not well_formed or list(strides[rest]) != [1, 1]:
        raise ValueError
    if not isinstance(padding, str):
        if any(size for side in padding[rest] for size in side) or min(size for side in padding for size in side) < 0:
            raise ValueError
        padding = tuple(tuple(side) for side in padding[spatial])
    if input.dtype == tf.bool:
        raise ValueError
    return Call(input, filter, tuple(strides[spatial]), padding, data_format, tuple(dilations or (1, 1)))


def same_pads(call: Call) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The pads that SAME stands for, or None where the image's size is unknown."""
    if None in call.image:
        return None
    pads = []
    for size, span, stride in zip(call.image, call.span, call.strides, strict=True):
        assert size is not None
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        pads.append((total // 2, total - total // 2))
    return pads[0], pads[1]
