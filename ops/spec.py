"""ConvSpec: the arguments of the op, checked and made canonical once. Every argument error is raised here,
but for those of `lowering`, which `choose` knows.

The rest of the package sees no `strides` of four numbers in two orders, no padding in five spellings and no unknown
dtype: it sees a frozen, hashable record, which is also the key under which everything derived from it is cached.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from math import prod
from typing import Any, TypeAlias

import tensorflow as tf
from depthwise.ops.geometry import Axis, Padding
from depthwise.ops.sizes import told

Dim: TypeAlias = "int | None"

HALVES = ("float16", "bfloat16")
FLOATS = (*HALVES, "float32", "float64")
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

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # kept: the record is the key of every cache, several times per call
        return hash((self.data_format, self.dtype, *self.input_shape, *self.filter_shape, self.rows, self.cols))

    @cached_property
    def known(self) -> bool:
        """Whether both spatial axes are known, of input and filter (batch and channels may still be unknown)."""
        return self.rows.known and self.cols.known

    @cached_property
    def is_sized(self) -> bool:
        """Whether the filter's height and width are known (and not tensors, as within a lowering they may be)."""
        return isinstance(self.rows.taps, int) and isinstance(self.cols.taps, int)

    @cached_property
    def far_apart(self) -> bool:
        """Whether windows or taps stand further apart than the image is large, along either axis; of a filter of known
        size, whose taps can be taken one by one."""
        return self.is_sized and (self.rows.far_apart or self.cols.far_apart)

    @cached_property
    def is_dilated(self) -> bool:
        """Whether taps stand more than a sample apart, along either axis."""
        return not self.rows.rate == self.cols.rate == 1

    @cached_property
    def is_strided(self) -> bool:
        """Whether windows lie more than a sample apart, along either axis."""
        return not self.rows.stride == self.cols.stride == 1

    @cached_property
    def taps(self) -> int:
        """Taps of one filter of known height and width."""
        return int(self.rows.taps * self.cols.taps)

    @cached_property
    def input_shape(self) -> tuple[Dim, ...]:
        """Shape of the input, in the order of the data format."""
        return self.in_order(self.batch, self.rows.size, self.cols.size, self.channels)

    @cached_property
    def filter_shape(self) -> tuple[Dim, ...]:
        """Shape of the filter: [filter_height, filter_width, in_channels, channel_multiplier]."""
        return (self.rows.taps, self.cols.taps, self.channels, self.multiplier)

    @cached_property
    def output_shape(self) -> tuple[Dim, ...]:
        """Shape of the output, in the order of the data format."""
        rows, cols = (axis.output if axis.known else None for axis in (self.rows, self.cols))
        channels = None if self.channels is None or self.multiplier is None else self.channels * self.multiplier
        return self.in_order(self.batch, rows, cols, channels)

    @cached_property
    def accumulated(self) -> ConvSpec:
        """The same convolution in the dtype that its sums are formed in.

        Half types accumulate in float32, so that a result is rounded once, at the end. Integers need no wider type:
        their sums are exact modulo 2**bits, so a result that fits is right whatever wrapped on the way.
        """
        return replace(self, dtype="float32") if self.dtype in HALVES else self

    @cached_property
    def may_be_empty(self) -> bool:
        """Whether input, filter or output has no elements, or could have none for all that is known."""
        shapes = (self.input_shape, self.filter_shape, self.output_shape)
        return any(dim is None or dim == 0 for shape in shapes for dim in shape)

    @cached_property
    def is_empty(self) -> bool:
        """Whether it is known that input, filter or output has no elements."""
        return any(0 in shape for shape in (self.input_shape, self.filter_shape, self.output_shape))

    def in_order(self, batch: Any, height: Any, width: Any, channels: Any) -> tuple[Any, ...]:
        """Four values, one per dimension, in the order of the data format."""
        return in_order(self.data_format, batch, height, width, channels)

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
    argument: str,
    rule: str,
    received: str,
    advice: str,
    kind: type[Exception] = ValueError,
    whose: str = "depthwise_conv2d",
) -> Exception:
    """The error for a bad argument: which one, the rule, what was received, what to do."""
    return kind(f"{whose} argument `{argument}` must {rule}, but got {received}. {advice}")


def shown(value: object) -> str:
    """A value in an error message: never longer than a line or two."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def check_name(name: object) -> None:
    """Refuses a `name` that no op can have."""
    if name is None or (isinstance(name, str) and _NAME(name)):
        return
    rule = "be None, empty or the name of an op: letters, digits and . _ / > -, a letter, digit or dot first"
    kind = ValueError if isinstance(name, str) else TypeError
    raise argument_error("name", rule, shown(name), "Leave it out.", kind)


_NAME = re.compile(r"([A-Za-z0-9.][A-Za-z0-9_./>-]*)?").fullmatch


def canonicalize(
    input: Any, filter: Any, strides: Any, padding: Any, data_format: Any, dilations: Any
) -> tuple[ConvSpec, tf.Tensor, tf.Tensor]:
    """The record of a call, and its two tensors, behind assertions of what is unknown while they are traced.

    Raises:
      TypeError, ValueError: as `spec_and_tensors`.
      tf.errors.InvalidArgumentError: at run time, where a size or a rank was unknown until then.
    """
    spec, input, filter = spec_and_tensors(input, filter, strides, padding, data_format, dilations)
    if None in spec.input_shape or None in spec.filter_shape:  # an unknown rank leaves every size unknown
        input, filter = _checked_at_run_time(spec, input, filter)
    return spec, input, filter


def spec_and_tensors(
    input: Any, filter: Any, strides: Any, padding: Any, data_format: Any, dilations: Any
) -> tuple[ConvSpec, tf.Tensor, tf.Tensor]:
    """The record of a call, and its two tensors.

    Raises:
      TypeError: an argument is of a wrong kind or dtype.
      ValueError: an argument breaks a rule; the message names the argument, the rule, the value and the way out.
    """
    input, filter = _tensors(input, filter)
    tensors = _dims(input), _dims(filter), input.dtype.name, filter.dtype.name
    arguments = strides, padding, data_format, dilations
    try:
        key = (*tensors, *map(_frozen, arguments))
    except _NotFrozenError:
        return _spec(*tensors, *arguments), input, filter
    spec = _SPECS.get(key)
    if spec is None:
        if len(_SPECS) >= MOST_SPECS:
            _SPECS.clear()
        spec = _SPECS[key] = _spec(*tensors, *arguments)
    return spec, input, filter


MOST_SPECS = 4096
"""Records of calls to keep, and what is derived from each: more than a program has convolutions, and not without end
where the sizes of images vary."""
_SPECS: dict[tuple[Any, ...], ConvSpec] = {}
"""The records of calls seen before: a second eager call costs a look-up."""


class _NotFrozenError(TypeError):
    """An argument of a type that may change, or that equals one of another type (1.0 and True equal 1)."""


def _frozen(value: Any) -> Any:
    """An argument as a key: of strings, integers, None, and lists and tuples of them alone."""
    kind = type(value)
    if kind is int or kind is str or value is None:
        return value
    if kind is list or kind is tuple:
        return tuple([_frozen(item) for item in value])
    raise _NotFrozenError


def _spec(
    input_shape: tuple[Dim, ...] | None,
    filter_shape: tuple[Dim, ...] | None,
    dtype: str,
    filter_dtype: str,
    strides: Any,
    padding: Any,
    data_format: Any,
    dilations: Any,
) -> ConvSpec:
    """The record of a call, argument by argument, then what needs more than one of them."""
    data_format = _data_format(data_format)
    stride_rows, stride_cols = _strides(strides, data_format)
    rate_rows, rate_cols = _dilations(dilations, data_format)
    pad_rows, pad_cols = _padding(padding, data_format)
    _check_tensors(input_shape, filter_shape, dtype, filter_dtype)
    batch, height, width, channels = nhwc(input_shape or (None,) * 4, data_format)
    filter_height, filter_width, filter_channels, multiplier = filter_shape or (None,) * 4
    if channels is not None and filter_channels is not None and channels != filter_channels:
        received = f"filter shape {filter_shape} for input shape {input_shape} in {data_format}"
        raise argument_error("filter", _CHANNEL_RULE, received, _CHANNEL_ADVICE)
    spec = ConvSpec(
        data_format=data_format,
        dtype=dtype,
        batch=batch,
        channels=filter_channels if channels is None else channels,
        multiplier=multiplier,
        rows=Axis(height, filter_height, stride_rows, rate_rows, pad_rows),
        cols=Axis(width, filter_width, stride_cols, rate_cols, pad_cols),
    )
    for axis, side in ((spec.rows, "height"), (spec.cols, "width")):
        _check_axis(axis, side, filter_shape)
    if None not in spec.output_shape and prod(spec.output_shape) > INT64_MAX:  # type: ignore[arg-type]
        rule = f"leave an output of at most {INT64_MAX} elements"
        raise argument_error("padding", rule, f"an output of shape {spec.output_shape}", "Pad less.")
    return spec


def _check_tensors(
    input_shape: tuple[Dim, ...] | None, filter_shape: tuple[Dim, ...] | None, dtype: str, filter_dtype: str
) -> None:
    """Refuses tensors of another rank than 4, or of dtypes that are not supported, or two."""
    for argument, shape in (("input", input_shape), ("filter", filter_shape)):
        if shape is not None and len(shape) != 4:
            raise argument_error(argument, _RANK_RULES[argument], f"shape {shape}", _RANK_ADVICE)
    if dtype not in FLOATS + INTEGERS + COMPLEX:
        supported = ", ".join(FLOATS + INTEGERS + COMPLEX)
        raise argument_error("input", f"have one of the dtypes {supported}", dtype, "Use tf.cast.", TypeError)
    if filter_dtype != dtype:
        advice = f"Use tf.cast(filter, tf.{dtype})."
        raise argument_error("filter", f"have the dtype of `input` ({dtype})", filter_dtype, advice, TypeError)


def _check_axis(axis: Axis, side: str, filter_shape: tuple[Dim, ...] | None) -> None:
    """Refuses what makes no convolution along one axis, or one that 32-bit sizes cannot count."""
    if axis.taps == 0:
        raise argument_error("filter", _TAPS_RULE.format(side), f"shape {filter_shape}", _TAPS_ADVICE)
    if axis.taps is not None and axis.span > INT32_MAX:
        raise argument_error("dilations", _SPAN_RULE.format(side), f"{axis.rate} for {axis.taps} taps", _SPAN_ADVICE)
    pads = axis.pads if axis.known or axis.padding != "SAME" else (0, 0)
    if (axis.size or 0) + sum(pads) > INT32_MAX:
        if axis.padding == "SAME" and axis.rate > 1:  # then it is the rate that makes it pad so much
            received = f"{axis.rate} for {axis.taps} taps on {axis.size} samples"
            raise argument_error("dilations", _PADDED_RULE.format(side), received, _SPAN_ADVICE)
        received = f"{'an unknown number of' if axis.size is None else axis.size} samples padded by {pads}"
        raise argument_error("padding", _PADDED_RULE.format(side), received, _PADDED_ADVICE)


_RANK_RULES = {
    "input": "have rank 4: [batch, height, width, channels], or [batch, channels, height, width] for NCHW",
    "filter": "have rank 4: [filter_height, filter_width, in_channels, channel_multiplier]",
}
_CHANNEL_RULE = "have as many in_channels (its third dimension) as `input` has channels"
_RANK_ADVICE = "Reshape it, or add a dimension."
_CHANNEL_ADVICE = "Check data_format, or the order of the filter's dimensions."
_TAPS_RULE, _TAPS_ADVICE = "have a {} of at least 1", "Use a 1x1 filter."
_SPAN_RULE = f"keep the {{}} of the dilated filter, rate * (taps - 1) + 1, at most {INT32_MAX}"
_SPAN_ADVICE = "Dilate less."
_PADDED_RULE, _PADDED_ADVICE = f"keep the padded {{}} at most {INT32_MAX}", "Pad less."


def _checked_at_run_time(spec: ConvSpec, input: tf.Tensor, filter: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The tensors, behind assertions of the rules that their static shapes leave open."""
    # Rank first: the sizes of a tensor of another rank cannot be read at all.
    input, filter = _of_rank_4("input", input), _of_rank_4("filter", filter)
    _, *image, channels = nhwc(range(4), spec.data_format)
    if input.shape.as_list()[channels] is None or filter.shape.as_list()[2] is None:
        same = tf.equal(tf.shape(input)[channels], tf.shape(filter)[2])
        filter = _asserted(filter, same, "filter", _CHANNEL_RULE, _CHANNEL_ADVICE, tf.shape(input))
    for axis, side, at in zip((spec.rows, spec.cols), ("height", "width"), image, strict=True):
        if axis.taps is None:
            taps = tf.shape(filter)[at - image[0]]
            filter = _asserted(filter, taps >= 1, "filter", _TAPS_RULE.format(side), _TAPS_ADVICE)
            if axis.rate > 1:
                fits = taps <= (INT32_MAX - 1) // axis.rate + 1
                filter = _asserted(filter, fits, "dilations", _SPAN_RULE.format(side), _SPAN_ADVICE)
        if axis.size is None and not isinstance(axis.padding, str) and any(axis.padding):
            fits = tf.shape(input)[at] <= INT32_MAX - sum(axis.padding)
            input = _asserted(input, fits, "padding", _PADDED_RULE.format(side), _PADDED_ADVICE)
    return told(input, spec.input_shape), told(filter, spec.filter_shape)


def _of_rank_4(argument: str, tensor: tf.Tensor) -> tf.Tensor:
    if tensor.shape.rank is not None:
        return tensor
    # Of whatever rank, four sizes: Grappler concludes from anything that simply takes a tensor of rank 4 that the
    # assertion holds, and removes it.
    sizes = tf.slice(tf.concat([tf.shape(tensor), [1] * 4], 0), [0], [4])
    return _asserted(tensor, tf.equal(tf.rank(tensor), 4), argument, _RANK_RULES[argument], _RANK_ADVICE, sizes=sizes)


def _asserted(
    tensor: tf.Tensor,
    holds: tf.Tensor,
    argument: str,
    rule: str,
    advice: str,
    *others: Any,
    sizes: tf.Tensor | None = None,
) -> tf.Tensor:
    """The tensor, reshaped to its own sizes or to these, once the rule holds."""
    with tf.control_dependencies([_assertion(holds, argument, rule, advice, tf.shape(tensor), *others)]):
        tensor = tf.identity(tensor)
    # XLA removes assertions. There the reshape refuses, to a negative size, and its name says why.
    sizes = tf.where(holds, tf.shape(tensor) if sizes is None else sizes, -2)
    checked = tf.reshape(tensor, sizes, name=f"{argument}_must_" + re.sub(r"\W+", "_", rule).strip("_"))
    checked.set_shape(tensor.shape)
    return checked


def _assertion(holds: tf.Tensor, argument: str, rule: str, advice: str, *shapes: tf.Tensor) -> tf.Operation:
    """The rule, checked at run time with the text that it has at trace time."""
    return tf.debugging.Assert(holds, [str(argument_error(argument, rule, "the shapes below", advice)), *shapes])


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
    rule = "be a dense tensor, a variable, an array or a nested list of numbers"
    for kind, advice in _NOT_DENSE.items():
        if isinstance(value, kind):
            raise argument_error(argument, rule, shown(value), advice, TypeError)
    try:
        return tf.convert_to_tensor(value, dtype_hint=dtype_hint)
    except (TypeError, ValueError) as error:
        raise argument_error(argument, rule, shown(value), f"TensorFlow says: {error}", TypeError) from error


_NOT_DENSE: dict[type, str] = {
    type(None): "Pass a tensor.",
    tf.RaggedTensor: "Call its to_tensor().",
    tf.SparseTensor: "Pass tf.sparse.to_dense of it.",
}


def _dims(tensor: tf.Tensor) -> tuple[Dim, ...] | None:
    shape = tensor.shape
    return None if shape.rank is None else tuple(shape.as_list())


def _integers(argument: str, rule: str, values: Any, minimum: int, advice: str) -> tuple[int, ...]:
    """The values as Python integers, each from `minimum` to what 32 bits hold."""
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        raise argument_error(argument, rule, shown(values), advice, TypeError)
    try:
        items = tuple(islice(values, 5))  # never more than 4 are right
        integers = tuple(operator.index(item) for item in items)
    except (AttributeError, TypeError, ValueError, tf.errors.OpError):  # a float tensor's index is its array's
        raise argument_error(argument, rule, shown(values), advice, TypeError) from None
    if any(isinstance(item, bool) for item in items):
        raise argument_error(argument, rule, shown(values), advice, TypeError)
    if not all(minimum <= value <= INT32_MAX for value in integers):
        raise argument_error(argument, f"{rule}, each from {minimum} to {INT32_MAX}", shown(values), advice)
    return integers


def _data_format(data_format: Any) -> str:
    if data_format is None:
        return "NHWC"
    if not isinstance(data_format, str) or data_format not in ("NHWC", "NCHW"):
        kind = ValueError if isinstance(data_format, str) else TypeError
        rule = "be 'NHWC', 'NCHW' or None (NHWC)"
        raise argument_error("data_format", rule, shown(data_format), "Pass one of the three.", kind)
    return str(data_format)


def _strides(strides: Any, data_format: str) -> tuple[int, int]:
    rule = f"be 4 integers in the order of {data_format}, 1 for batch and channels"
    advice = f"For a stride of 2, pass {list(in_order(data_format, 1, 2, 2, 1))}."
    values = _integers("strides", rule, strides, 1, advice)
    if len(values) != 4:
        raise argument_error("strides", rule, shown(strides), advice)
    batch, height, width, channels = nhwc(values, data_format)
    if (batch, channels) != (1, 1):
        raise argument_error("strides", rule, shown(strides), advice)
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
            raise argument_error("dilations", rule, shown(dilations), advice)
    if len(values) != 2:
        raise argument_error("dilations", rule, shown(dilations), advice)
    return values[0], values[1]


def _padding(padding: Any, data_format: str) -> tuple[Padding, Padding]:
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        name: Padding = "SAME" if padding == "SAME" else "VALID"
        return name, name
    rule = f"be 'SAME', 'VALID', or 4 pairs (before, after) of integers in the order of {data_format}, none negative"
    example = list(in_order(data_format, [0, 0], [1, 1], [2, 2], [0, 0]))
    advice = f"For example {example}; batch and channels take [0, 0]."
    if isinstance(padding, str):
        raise argument_error("padding", rule, shown(padding), advice)
    if isinstance(padding, bytes | dict) or not isinstance(padding, Iterable):
        raise argument_error("padding", rule, shown(padding), advice, TypeError)
    try:
        items = tuple(islice(padding, 5))
    except TypeError:  # arrays and tensors are iterable, but for those without a dimension
        raise argument_error("padding", rule, shown(padding), advice, TypeError) from None
    pairs = [_integers("padding", rule, pair, 0, advice) for pair in items]
    if len(pairs) != 4 or any(len(pair) != 2 for pair in pairs):
        raise argument_error("padding", rule, shown(padding), advice)
    batch, height, width, channels = nhwc(pairs, data_format)
    if any(batch + channels):
        raise argument_error("padding", rule, shown(padding), advice)
    return height, width
