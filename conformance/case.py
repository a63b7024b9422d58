"""One case: which convolution, in which dtype, mode and device, on which data; and its one-line notation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from depthwise.conformance import oracle
from depthwise.conformance.malformed import MALFORMED

FORMATS = ("NHWC", "NCHW")
DTYPES = (
    *("float16", "bfloat16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8"),
    *("complex64", "complex128"),
)
MODES = ("eager", "graph", "dynamic", "xla")
UNKNOWN_IN = ("dynamic", "xla")
UNKNOWN = ("", "N", "H", "W", "NH", "NW", "HW", "NHW")
DATA = ("normal", "integer", "special", "special-filter")
ORDERS = (1, 2)

Pads = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Case:
    """One configuration of the op; what is checked about it follows from it.

    Attributes:
      input: (N, H, W, C), in this order whatever `format` is.
      filter: (taps in height, taps in width, channel multiplier).
      strides, dilations: (height, width).
      padding: "SAME", "VALID" or ((top, bottom), (left, right)).
      format: "NHWC" or "NCHW".
      dtype: of input, filter and output.
      mode: "eager", "graph" (`tf.function`, static shapes), "dynamic" (`tf.function`, unknown sizes) or "xla"
        (`jit_compile=True`).
      unknown: which of the image's batch (N), height (H) and width (W) are unknown while the op is traced; "" for what
        goes with the mode: all three in "dynamic", none in "xla". The other modes have no choice.
      device: a device type that TensorFlow lists, "CPU" or "GPU" above all.
      data: "normal" (with cancellation), "integer" (every sum is exact: nothing is tolerated), "special" (NaN and
        infinity among the normal input and cotangent) or "special-filter" (among the filter).
      order: 2 to check the gradients of the gradients too.
      bad: the name of a malformation (see `malformed.py`) that must be refused, or "".
      seed: of the data.
    """

    input: tuple[int, int, int, int]
    filter: tuple[int, int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: str | Pads = "SAME"
    format: str = "NHWC"
    dtype: str = "float32"
    mode: str = "eager"
    unknown: str = ""
    device: str = "CPU"
    data: str = "normal"
    order: int = 1
    bad: str = ""
    seed: int = 0

    def __str__(self) -> str:
        """The notation: `in=` and `filter=`, then what differs from the defaults. `parse` reads it back."""
        words = [f"in={_crossed(self.input)}", f"filter={_crossed(self.filter)}"]
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            if value != field.default:
                words.append(f"{field.name}={_written(field.name, value)}")
        return " ".join(words)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """The input's shape in `format`."""
        n, h, w, c = self.input
        return (n, h, w, c) if self.format == "NHWC" else (n, c, h, w)

    @property
    def filter_shape(self) -> tuple[int, int, int, int]:
        """(taps in height, taps in width, C, M)."""
        return (self.filter[0], self.filter[1], self.input[3], self.filter[2])

    @property
    def geometry(self) -> dict[str, Any]:
        """The keyword arguments that the oracle's functions share."""
        return {
            "strides": self.strides,
            "padding": self.padding,
            "dilations": self.dilations,
            "data_format": self.format,
        }

    def arguments(self) -> dict[str, Any]:
        """Everything but input and filter, as `tf.nn.depthwise_conv2d` takes it by name."""
        nhwc = self.format == "NHWC"

        def four(pair: Any, rest: Any) -> list[Any]:
            return [rest, *pair, rest] if nhwc else [rest, rest, *pair]

        padding: Any = self.padding
        if not isinstance(padding, str):
            padding = four([list(side) for side in padding], [0, 0])
        # Left out where it isn't needed, as callers do.
        dilations = list(self.dilations) if self.bad or self.dilations != (1, 1) else None
        return {
            "strides": four(self.strides, 1),
            "padding": padding,
            "data_format": self.format,
            "dilations": dilations,
        }

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """The output's shape in `format`."""
        return oracle.output_shape(self.input_shape, self.filter_shape, **self.geometry)

    def traced(self, shape: Iterable[int]) -> list[int | None]:
        """The shape of an image in `format`, also of a malformed one, as far as it is known while the op is traced."""
        unknown = self.unknown or ("NHW" if self.mode == "dynamic" else "")
        axes = {self.format.index(letter) for letter in unknown}
        return [None if axis in axes else size for axis, size in enumerate(shape)]

    @property
    def padding_kind(self) -> str:
        """ "SAME", "VALID" or "EXPLICIT"."""
        return self.padding if isinstance(self.padding, str) else "EXPLICIT"

    @property
    def pads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """((top, bottom), (left, right)). SAME pads, by TensorFlow's documentation, by what the last window lacks: half
        of it before the image, and the odd sample after it."""
        if not isinstance(self.padding, str):
            return self.padding
        if self.padding == "VALID":
            return (0, 0), (0, 0)
        sizes = zip(self.input[1:3], self.filter[:2], self.strides, self.dilations, strict=True)
        height, width = (max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in sizes)
        return (height // 2, height - height // 2), (width // 2, width - width // 2)


def parse(text: str) -> Case:
    """The case that a notation stands for.

    Args:
      text: words `name=value` in any order, as `str(case)` prints them.

    Returns:
      The case.

    Raises:
      ValueError: a word, name or value is not of the notation.

    Example:
      >>> str(parse("in=1x5x5x2 filter=3x3x1 strides=2x1 padding=1,0,2,3 mode=xla"))
      'in=1x5x5x2 filter=3x3x1 strides=2x1 padding=1,0,2,3 mode=xla'
    """
    known = {"in" if field.name == "input" else field.name for field in fields(Case)}
    found: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise ValueError(f"case notation must be words name=value with names {sorted(known)}, got {word!r}")
        name = "input" if name == "in" else name
        if name in found:
            raise ValueError(f"case notation must give each name once, got {word!r} after another in {text!r}")
        found[name] = _read(name, value)
    if missing := {"input", "filter"} - set(found):
        raise ValueError(f"case notation must give in= and filter=, {sorted(missing)} missing in {text!r}")
    case = Case(**found)
    if case.unknown and case.mode not in UNKNOWN_IN:
        raise ValueError(
            f"case notation: unknown needs one of the modes {UNKNOWN_IN}, got mode={case.mode} in {text!r}"
        )
    return case


_LENGTHS = {"input": 4, "filter": 3, "strides": 2, "dilations": 2}
_CHOICES = {
    "format": FORMATS,
    "dtype": DTYPES,
    "mode": MODES,
    "unknown": UNKNOWN,
    "data": DATA,
    "bad": ("", *MALFORMED),
}

_RULES = {
    "padding": "SAME, VALID or top,bottom,left,right, each at least 0",
    "device": "a device type in capitals, such as CPU or GPU",
    "order": f"one of {ORDERS}",
    "seed": "an integer of at least 0",
}


def _read(name: str, value: str) -> Any:
    try:
        if name in _LENGTHS:
            numbers = tuple(int(part) for part in value.split("x"))
            least = 0 if name == "input" else 1
            if len(numbers) != _LENGTHS[name] or min(numbers) < 0 or min(numbers[:2]) < least:
                raise ValueError
            return numbers
        if name == "padding":
            if value in ("SAME", "VALID"):
                return value
            top, bottom, left, right = sides = [int(part) for part in value.split(",")]
            if min(sides) < 0:
                raise ValueError
            return ((top, bottom), (left, right))
        if name in ("order", "seed"):
            number = int(value)
            if number < 0 or (name == "order" and number not in ORDERS):
                raise ValueError
            return number
        if name == "device" and not value.isupper():
            raise ValueError
        if name in _CHOICES and value not in _CHOICES[name]:
            raise ValueError
        return value
    except ValueError:
        if name in _LENGTHS:
            rule = f"{_LENGTHS[name]} sizes joined by x, those of a window at least 1"
        else:
            rule = _RULES.get(name) or f"one of {_CHOICES[name]}"
        raise ValueError(f"case notation: {name} must be {rule}, got {value!r}") from None


def _crossed(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))


def _written(name: str, value: Any) -> str:
    if name == "padding" and not isinstance(value, str):
        return ",".join(str(size) for side in value for size in side)
    return _crossed(value) if name in _LENGTHS else str(value)
