"""ConvSpec: the arguments of the op, checked and made canonical once. Every argument error is raised here.

The rest of the package sees no `strides` of four numbers in two orders, no padding in five spellings and no unknown
dtype: it sees a frozen, hashable record, which is also the key under which everything derived from it is cached.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any, TypeAlias

import tensorflow as tf
from depthwise.ops.geometry import Axis, Padding

Dim: TypeAlias = "int | None"

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8")
COMPLEX = ("complex64", "complex128")
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class ConvSpec:
    """One depthwise convolution, with every argument in one form.

    Attributes:
      data_format: "NHWC" or "NCHW".
      dtype: name of the dtype of input, filter and output.
      batch: batch size, None while unknown.
      channels: input channels, None while unknown.
      multiplier: outputs per input channel, None while unknown.
      rows, cols: the two spatial axes (height and width), whatever the data format.
    """

    data_format: str
    dtype: str
    batch: Dim
    channels: Dim
    multiplier: Dim
    rows: Axis
    cols: Axis

    @cached_property
    def known(self) -> bool:
        """Whether both spatial axes are known, of input and filter (batch and channels may still be unknown)."""
        return self.rows.known and self.cols.known

    @cached_property
    def input_shape(self) -> tuple[Dim, ...]:
        """Shape of the input, in the order of the data format."""
        return self.layout(self.batch, self.rows.size, self.cols.size, self.channels)

    @cached_property
    def filter_shape(self) -> tuple[Dim, ...]:
        """Shape of the filter: [filter_height, filter_width, in_channels, channel_multiplier]."""
        return (self.rows.taps, self.cols.taps, self.channels, self.multiplier)

    @cached_property
    def output_shape(self) -> tuple[Dim, ...]:
        """Shape of the output, in the order of the data format."""
        rows, cols = (axis.output if axis.known else None for axis in (self.rows, self.cols))
        channels = None if self.channels is None or self.multiplier is None else self.channels * self.multiplier
        return self.layout(self.batch, rows, cols, channels)

    @cached_property
    def may_be_empty(self) -> bool:
        """Whether input, filter or output has no elements, or could have none for all that is known."""
        shapes = (self.input_shape, self.filter_shape, self.output_shape)
        return any(dim is None or dim == 0 for shape in shapes for dim in shape)

    @cached_property
    def is_empty(self) -> bool:
        """Whether it is known that input, filter or output has no elements."""
        return any(0 in shape for shape in (self.input_shape, self.filter_shape, self.output_shape))

    def layout(self, batch: Any, height: Any, width: Any, channels: Any) -> tuple[Any, ...]:
        """Four values, one per dimension, in the order of the data format."""
        return in_order(self.data_format, batch, height, width, channels)

    def channels_of(self, image_shape: Sequence[Any]) -> Any:
        """The channel count in the shape of an image."""
        return nhwc(image_shape, self.data_format)[3]

    def axes(self, input_sizes: Sequence[Any], filter_sizes: Sequence[Any]) -> tuple[Axis, Axis]:
        """The spatial axes, with what is unknown filled in from run-time sizes (the input's in NHWC order)."""
        rows, cols = (
            replace(
                axis,
                size=input_sizes[1 + i] if axis.size is None else axis.size,
                taps=filter_sizes[i] if axis.taps is None else axis.taps,
            )
            for i, axis in enumerate((self.rows, self.cols))
        )
        return rows, cols


def in_order(data_format: str, batch: Any, height: Any, width: Any, channels: Any) -> tuple[Any, ...]:
    """Four values, one per dimension, in the order of the data format."""
    return (batch, height, width, channels) if data_format == "NHWC" else (batch, channels, height, width)


def nhwc(values: Sequence[Any], data_format: str) -> tuple[Any, ...]:
    """Four values in the order of the data format, as (batch, height, width, channels)."""
    order = (0, 1, 2, 3) if data_format == "NHWC" else (0, 2, 3, 1)
    return tuple(values[i] for i in order)


def argument_error(
    argument: str, rule: str, value: object, advice: str, kind: type[Exception] = ValueError
) -> Exception:
    """The error for a bad argument: which one, the rule, what was received, what to do."""
    return kind(f"depthwise_conv2d argument `{argument}` must {rule}, but got {value!r}. {advice}")


def check_name(name: object) -> None:
    """Refuses a `name` that is neither None nor a string."""
    if not isinstance(name, str | None):
        raise argument_error("name", "be None or a string", name, "Leave it out.", TypeError)


def canonicalize(
    input: Any, filter: Any, strides: Any, padding: Any, data_format: Any, dilations: Any
) -> tuple[ConvSpec, tf.Tensor, tf.Tensor]:
    """The record of a call, and its two tensors.

    Raises:
      TypeError: an argument is of a wrong kind or dtype.
      ValueError: an argument breaks a rule; the message names the argument, the rule, the value and the way out.
      tf.errors.InvalidArgumentError: at run time, where a rank or a channel count was unknown until then.
    """
    input, filter = _tensors(input, filter)
    if data_format is None:
        data_format = "NHWC"
    if not isinstance(data_format, str) or data_format not in ("NHWC", "NCHW"):
        raise argument_error("data_format", "be 'NHWC', 'NCHW' or None (NHWC)", data_format, "Pass one of the three.")
    input_shape, filter_shape = _dims(input), _dims(filter)
    spec = _spec(
        input_shape,
        filter_shape,
        input.dtype.name,
        filter.dtype.name,
        data_format,
        _strides(strides, data_format),
        _dilations(dilations, data_format),
        _padding(padding, data_format),
    )
    if input_shape is None or filter_shape is None or None in (spec.channels_of(input_shape), filter_shape[2]):
        input, filter = _checked_at_run_time(spec, input, filter)
    return spec, input, filter


@lru_cache(maxsize=4096)
def _spec(
    input_shape: tuple[Dim, ...] | None,
    filter_shape: tuple[Dim, ...] | None,
    dtype: str,
    filter_dtype: str,
    data_format: str,
    strides: tuple[int, int],
    dilations: tuple[int, int],
    padding: tuple[Padding, Padding],
) -> ConvSpec:
    """The record, once strides, dilations and padding are canonical; checks what needs more than one argument."""
    for argument, shape in (("input", input_shape), ("filter", filter_shape)):
        if shape is not None and len(shape) != 4:
            raise argument_error(argument, _RANK_RULES[argument], f"shape {shape}", "Reshape it, or add a dimension.")
    if dtype not in FLOATS + INTEGERS + COMPLEX:
        supported = ", ".join(FLOATS + INTEGERS + COMPLEX)
        raise argument_error("input", f"have one of the dtypes {supported}", dtype, "Use tf.cast.", TypeError)
    if filter_dtype != dtype:
        advice = f"Use tf.cast(filter, tf.{dtype})."
        raise argument_error("filter", f"have the dtype of `input` ({dtype})", filter_dtype, advice, TypeError)

    batch, height, width, channels = nhwc(input_shape or (None,) * 4, data_format)
    kernel_height, kernel_width, filter_channels, multiplier = filter_shape or (None,) * 4
    if channels is not None and filter_channels is not None and channels != filter_channels:
        raise argument_error(
            "filter",
            _CHANNEL_RULE,
            f"filter shape {filter_shape} for input shape {input_shape} in {data_format}",
            "Check data_format, or the order of the filter's dimensions.",
        )
    spec = ConvSpec(
        data_format=data_format,
        dtype=dtype,
        batch=batch,
        channels=filter_channels if channels is None else channels,
        multiplier=multiplier,
        rows=Axis(height, kernel_height, strides[0], dilations[0], padding[0]),
        cols=Axis(width, kernel_width, strides[1], dilations[1], padding[1]),
    )
    for axis, side in ((spec.rows, "height"), (spec.cols, "width")):
        _check_axis(axis, side, filter_shape)
    if None not in spec.output_shape and prod(spec.output_shape) > INT64_MAX:  # type: ignore[arg-type]
        rule = f"leave an output of at most {INT64_MAX} elements"
        raise argument_error("padding", rule, f"an output of shape {spec.output_shape}", "Pad less.")
    return spec


def _check_axis(axis: Axis, side: str, filter_shape: tuple[Dim, ...] | None) -> None:
    """Refuses what makes no convolution along one axis, or one that 32-bit sizes cannot count."""
    if axis.taps == 0:
        raise argument_error("filter", f"have a {side} of at least 1", f"shape {filter_shape}", "Use a 1x1 filter.")
    if axis.taps is not None and axis.span > INT32_MAX:
        rule = f"keep the dilated filter's {side}, rate * (taps - 1) + 1, at most {INT32_MAX}"
        raise argument_error("dilations", rule, axis.rate, "Dilate less.")
    if axis.known and axis.size + sum(axis.pads) > INT32_MAX:
        rule = f"keep the padded {side} at most {INT32_MAX}"
        raise argument_error("padding", rule, f"{axis.size} samples padded by {axis.pads}", "Pad less.")


_RANK_RULES = {
    "input": "have rank 4: [batch, height, width, channels], or [batch, channels, height, width] for NCHW",
    "filter": "have rank 4: [filter_height, filter_width, in_channels, channel_multiplier]",
}
_CHANNEL_RULE = "have as many in_channels (its third dimension) as `input` has channels"


def _checked_at_run_time(spec: ConvSpec, input: tf.Tensor, filter: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The tensors, behind assertions of the rules that their static shapes leave open."""
    # Rank first: the channel count of a tensor of another rank cannot be read at all.
    tensors = []
    for argument, tensor in (("input", input), ("filter", filter)):
        if tensor.shape.rank is None:
            message = f"depthwise_conv2d argument `{argument}` must {_RANK_RULES[argument]}, but got shape"
            holds = tf.raw_ops.Equal(x=tf.rank(tensor), y=4)
            with tf.control_dependencies([tf.debugging.Assert(holds, [message, tf.shape(tensor)])]):
                tensor = tf.ensure_shape(tf.identity(tensor), [None] * 4)
        tensors.append(tensor)
    input, filter = tensors
    channels = spec.channels_of(tf.unstack(tf.shape(input)))
    holds = tf.raw_ops.Equal(x=channels, y=tf.shape(filter)[2])
    message = f"depthwise_conv2d argument `filter` must {_CHANNEL_RULE}, but got filter and input shapes"
    with tf.control_dependencies([tf.debugging.Assert(holds, [message, tf.shape(filter), tf.shape(input)])]):
        input = tf.ensure_shape(tf.identity(input), spec.input_shape)
    return input, tf.ensure_shape(filter, spec.filter_shape)


def _tensors(input: Any, filter: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Both as tensors. A Python list has no dtype of its own and takes the other's; an array keeps its own."""
    if not hasattr(input, "dtype") and hasattr(filter, "dtype"):
        filter = _tensor("filter", filter, None)
        return _tensor("input", input, filter.dtype), filter
    input = _tensor("input", input, None)
    return input, _tensor("filter", filter, None if hasattr(filter, "dtype") else input.dtype)


def _tensor(argument: str, value: Any, dtype_hint: tf.DType | None) -> tf.Tensor:
    if isinstance(value, tf.Tensor):
        return value
    rule, advice = "be a dense tensor, variable or array", "Ragged: .to_tensor(); sparse: tf.sparse.to_dense."
    if value is None or isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        raise argument_error(argument, rule, value, advice, TypeError)
    try:
        return tf.convert_to_tensor(value, dtype_hint=dtype_hint)
    except (TypeError, ValueError) as error:
        raise argument_error(argument, rule, value, f"TensorFlow says: {error}", TypeError) from error


def _dims(tensor: tf.Tensor) -> tuple[Dim, ...] | None:
    shape = tensor.shape
    return None if shape.rank is None else tuple(shape)


def _integers(argument: str, rule: str, values: Any, minimum: int, advice: str) -> tuple[int, ...]:
    """The values as Python integers, each from `minimum` to what 32 bits hold."""
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        raise argument_error(argument, rule, values, advice, TypeError)
    try:
        integers = tuple(operator.index(value) for value in values)
    except TypeError:
        raise argument_error(argument, rule, values, advice, TypeError) from None
    if any(isinstance(value, bool) for value in values):
        raise argument_error(argument, rule, values, advice, TypeError)
    if not all(minimum <= value <= INT32_MAX for value in integers):
        raise argument_error(argument, f"{rule}, each from {minimum} to {INT32_MAX}", values, advice)
    return integers


def _strides(strides: Any, data_format: str) -> tuple[int, int]:
    rule = f"be 4 integers in the order of {data_format}, 1 for batch and channels"
    advice = f"For a stride of 2, pass {list(in_order(data_format, 1, 2, 2, 1))}."
    values = _integers("strides", rule, strides, 1, advice)
    if len(values) != 4:
        raise argument_error("strides", rule, strides, advice)
    batch, height, width, channels = nhwc(values, data_format)
    if (batch, channels) != (1, 1):
        raise argument_error("strides", rule, strides, advice)
    return height, width


def _dilations(dilations: Any, data_format: str) -> tuple[int, int]:
    if dilations is None:
        return 1, 1
    rule = f"be None, one integer, 2 integers (height, width), or 4 in the order of {data_format}"
    advice = "For a rate of 2, pass [2, 2]; the rates of batch and channels are 1."
    single = not isinstance(dilations, Sequence) and getattr(dilations, "shape", ()) == ()
    values = _integers("dilations", rule, (dilations, dilations) if single else dilations, 1, advice)
    if len(values) == 4:
        batch, *values, channels = nhwc(values, data_format)  # type: ignore[assignment]
        if (batch, channels) != (1, 1):
            raise argument_error("dilations", rule, dilations, advice)
    if len(values) == 1:
        values = values * 2
    if len(values) != 2:
        raise argument_error("dilations", rule, dilations, advice)
    return values[0], values[1]


def _padding(padding: Any, data_format: str) -> tuple[Padding, Padding]:
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        return padding, padding  # type: ignore[return-value]
    rule = f"be 'SAME', 'VALID', or 4 pairs (before, after) of integers in the order of {data_format}, none negative"
    example = list(in_order(data_format, [0, 0], [1, 1], [2, 2], [0, 0]))
    advice = f"For example {example}; batch and channels take [0, 0]."
    if isinstance(padding, str):
        raise argument_error("padding", rule, padding, advice)
    if isinstance(padding, bytes | dict) or not isinstance(padding, Iterable):
        raise argument_error("padding", rule, padding, advice, TypeError)
    pairs = [_integers("padding", rule, pair, 0, advice) for pair in padding]
    if len(pairs) != 4 or any(len(pair) != 2 for pair in pairs):
        raise argument_error("padding", rule, padding, advice)
    batch, height, width, channels = nhwc(pairs, data_format)
    if any(batch + channels):
        raise argument_error("padding", rule, padding, advice)
    return height, width
