"""What is measured, as data: one depthwise convolution, written in one line. Imports no framework."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Pair: TypeAlias = tuple[int, int]

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class Case:
    """One depthwise convolution.

    Attributes:
      batch, height, width, channels: sizes of the input, whatever its data format.
      kernel, strides, dilations: (height, width).
      padding: "SAME" or "VALID", or one number of zeros on each of the four sides.
      multiplier: outputs per input channel.
      dtype: "float32", "float64", "float16" or "bfloat16".
      data_format: "NHWC" or "NCHW".
    """

    batch: int
    height: int
    width: int
    channels: int
    kernel: Pair
    strides: Pair = (1, 1)
    padding: str | int = "SAME"
    dilations: Pair = (1, 1)
    multiplier: int = 1
    dtype: str = "float32"
    data_format: str = "NHWC"

    def __str__(self) -> str:
        """One line, as `parse` reads it: what is usual is left out."""
        words = [f"{self.batch}x{self.height}x{self.width}x{self.channels}", f"k{_pair(self.kernel)}"]
        if self.strides != (1, 1):
            words.append(f"s{_pair(self.strides)}")
        if self.dilations != (1, 1):
            words.append(f"d{_pair(self.dilations)}")
        if self.multiplier != 1:
            words.append(f"m{self.multiplier}")
        if self.padding != "SAME":
            words.append(f"p{self.padding}" if isinstance(self.padding, int) else self.padding)
        words += [word for word, usual in ((self.dtype, "float32"), (self.data_format, "NHWC")) if word != usual]
        return " ".join(words)

    @property
    def pads(self) -> tuple[Pair, Pair]:
        """Zeros (before, after) rows and columns."""
        return self._pads(0), self._pads(1)

    @property
    def output(self) -> Pair:
        """Height and width of the output."""
        rows, cols = (
            (size + sum(self._pads(i)) - self._span(i)) // self.strides[i] + 1
            for i, size in enumerate((self.height, self.width))
        )
        return rows, cols

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input, in the data format."""
        return self._shape(self.height, self.width, self.channels)

    @property
    def filter_shape(self) -> tuple[int, int, int, int]:
        """[kernel height, kernel width, channels, multiplier]."""
        return (*self.kernel, self.channels, self.multiplier)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output, in the data format."""
        return self._shape(*self.output, self.channels * self.multiplier)

    def arguments(self) -> dict[str, Any]:
        """Everything but input and filter, as `tf.nn.depthwise_conv2d` takes it by name."""

        def four(pair: Sequence[Any], rest: Any) -> list[Any]:
            return [rest, *pair, rest] if self.data_format == "NHWC" else [rest, rest, *pair]

        return {
            "strides": four(self.strides, 1),
            "padding": self.padding if isinstance(self.padding, str) else four([list(p) for p in self.pads], [0, 0]),
            "data_format": self.data_format,
            "dilations": list(self.dilations),
        }

    @property
    def bytes_moved(self) -> int:
        """The least traffic of the output: input read once, output written once."""
        return BYTES[self.dtype] * (math.prod(self.input_shape) + math.prod(self.output_shape))

    def _shape(self, height: int, width: int, channels: int) -> tuple[int, int, int, int]:
        if self.data_format == "NHWC":
            return (self.batch, height, width, channels)
        return (self.batch, channels, height, width)

    def _span(self, i: int) -> int:
        return self.dilations[i] * (self.kernel[i] - 1) + 1

    def _pads(self, i: int) -> Pair:
        size = (self.height, self.width)[i]
        if self.padding == "VALID":
            return 0, 0
        if isinstance(self.padding, int):
            return self.padding, self.padding
        total = max(0, (math.ceil(size / self.strides[i]) - 1) * self.strides[i] + self._span(i) - size)
        return total // 2, total - total // 2


def parse(text: str) -> Case:
    """The case that a line describes.

    Args:
      text: `BATCHxHEIGHTxWIDTHxCHANNELS`, then any of kN or kHxW (kernel), s (strides), d (dilations), m (multiplier),
        pN (explicit padding on every side), SAME, VALID, NHWC, NCHW and a dtype, in any order.

    Raises:
      ValueError: a word is none of these, or the kernel is missing.

    Example:
      >>> parse("8x56x56x128 k3 s2x1 NCHW").strides
      (2, 1)
    """
    shape, *words = text.split()
    found: dict[str, object] = {}
    pairs = {"k": "kernel", "s": "strides", "d": "dilations"}
    for word in words:
        if word in BYTES:
            found["dtype"] = word
        elif word in ("NHWC", "NCHW"):
            found["data_format"] = word
        elif word in ("SAME", "VALID"):
            found["padding"] = word
        elif word[0] in pairs:
            sizes = _integers(word[1:], text)
            found[pairs[word[0]]] = (sizes[0], sizes[-1])
        elif word[0] in "mp":
            found["multiplier" if word[0] == "m" else "padding"] = _integers(word[1:], text)[0]
        else:
            raise ValueError(f"case {text!r}: cannot read {word!r}; write for example '8x56x56x128 k3 s2 VALID'")
    sizes = _integers(shape, text)
    if len(sizes) != 4 or "kernel" not in found:
        raise ValueError(f"case {text!r} must begin with 4 sizes and name a kernel, for example '8x56x56x128 k3'")
    return Case(*sizes, **found)  # type: ignore[arg-type]


def _integers(word: str, text: str) -> list[int]:
    try:
        return [int(size) for size in word.split("x")]
    except ValueError:
        raise ValueError(f"case {text!r}: {word!r} must be integers with x between them") from None


def _pair(pair: Pair) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"
