"""Independent reference values of the depthwise convolution and of its two gradients, in NumPy alone.

Written straight from the formula that `tf.nn.depthwise_conv2d` documents,

    output[b, i, j, k*M + q] = sum over di, dj of
        filter[di, dj, k, q] * input[b, stride_h*i + rate_h*di - top, stride_w*j + rate_w*dj - left, k]

where a tap that lies over padding is no term of the sum (so an infinite filter value never meets a padding zero).
Nothing of `depthwise.ops` is imported: a mistake made there in sizes or pads can't be repeated here by inheritance.

Floating inputs are computed in float64, complex ones in complex128. Integers are computed exactly: in int64 where no
partial sum can leave it, in Python's integers (an object array) otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Padding = str | Sequence[Sequence[int]]
Contraction = Callable[..., Array]


@dataclass(frozen=True)
class _Axis:
    """One spatial axis: how output positions, filter positions and input positions meet."""

    size: int
    taps: int
    stride: int
    rate: int
    before: int
    out: int

    def meet(self, tap: int) -> tuple[slice, slice]:
        """The output positions whose tap `tap` lies inside the image, and the input positions that it lies on."""
        offset = self.rate * tap - self.before
        first = max(0, -(offset // self.stride))  # the least i with stride*i + offset >= 0
        end = min(self.out, -((offset - self.size) // self.stride))  # the least i with stride*i + offset >= size
        if first >= end:
            return slice(0, 0), slice(0, 0)
        start = self.stride * first + offset
        return slice(first, end), slice(start, self.stride * (end - 1) + offset + 1, self.stride)


def _axis(size: int, taps: int, stride: int, rate: int, padding: str | Sequence[int]) -> _Axis:
    span = (taps - 1) * rate + 1
    if padding == "SAME":
        out = -(-size // stride)
        return _Axis(size, taps, stride, rate, max((out - 1) * stride + span - size, 0) // 2, out)
    before, after = (0, 0) if padding == "VALID" else (int(padding[0]), int(padding[1]))
    return _Axis(size, taps, stride, rate, before, max(-(-(size + before + after - span + 1) // stride), 0))


def _axes(
    image: Sequence[int], taps: Sequence[int], strides: Sequence[int], padding: Padding, dilations: Sequence[int]
) -> tuple[_Axis, _Axis]:
    if min(*strides, *dilations, *taps) < 1:
        raise ValueError(f"oracle: strides, dilations and taps must be >= 1, got {strides}, {dilations}, {taps}")
    if isinstance(padding, str) and padding not in ("SAME", "VALID"):
        raise ValueError(f"oracle: padding must be SAME, VALID or ((top, bottom), (left, right)), got {padding!r}")
    pads = (padding, padding) if isinstance(padding, str) else padding
    rows, columns = (_axis(image[a], taps[a], strides[a], dilations[a], pads[a]) for a in (0, 1))
    return rows, columns


def _meetings(rows: _Axis, columns: _Axis) -> Iterator[tuple[tuple[int, int], tuple[slice, ...], tuple[slice, ...]]]:
    """Each tap (di, dj), with the outputs (NHWC) for which it lies inside the image, and the samples it lies on."""
    for di, dj in product(range(rows.taps), range(columns.taps)):
        (out_rows, in_rows), (out_columns, in_columns) = rows.meet(di), columns.meet(dj)
        yield (di, dj), (slice(None), out_rows, out_columns), (slice(None), in_rows, in_columns)


def _to_nhwc(a: Array, data_format: str) -> Array:
    return a if data_format == "NHWC" else a.transpose(0, 2, 3, 1)


def _from_nhwc(a: Array, data_format: str) -> Array:
    return a if data_format == "NHWC" else a.transpose(0, 3, 1, 2)


def _exact(a: Array, b: Array, most_terms: int) -> tuple[Array, Array]:
    """Both operands in a type in which products and sums are exact (integers) or as wide as NumPy has (floats)."""
    if np.issubdtype(a.dtype, np.integer) or a.dtype == object:
        largest = int(np.abs(a.astype(object)).max(initial=0)) * int(np.abs(b.astype(object)).max(initial=0))
        wide: Any = np.int64 if largest * max(most_terms, 1) < 2**63 and a.dtype != np.uint64 else object
    else:
        wide = np.complex128 if np.issubdtype(a.dtype, np.complexfloating) else np.float64
    return a.astype(wide), b.astype(wide)


def output_shape(
    input_shape: Sequence[int],
    filter_shape: Sequence[int],
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    dilations: Sequence[int] = (1, 1),
    data_format: str = "NHWC",
) -> tuple[int, int, int, int]:
    """The output's shape, in `data_format`.

    Args:
      input_shape: four sizes, (N, H, W, C) for NHWC or (N, C, H, W) for NCHW. Any of them may be 0.
      filter_shape: (taps in height, taps in width, C, M), M being the channel multiplier.
      strides, dilations: (height, width), each >= 1.
      padding: "SAME", "VALID" or ((top, bottom), (left, right)).
      data_format: "NHWC" or "NCHW".

    Returns:
      (N, H', W', C*M), or (N, C*M, H', W') for NCHW.

    Raises:
      ValueError: a rank, size, stride or padding is outside the formula, or the channels differ.

    Example:
      >>> output_shape((1, 5, 5, 2), (3, 3, 2, 4), strides=(2, 2))
      (1, 3, 3, 8)
    """
    if len(input_shape) != 4 or len(filter_shape) != 4:
        raise ValueError(f"oracle: input and filter must have rank 4, got shapes {input_shape} and {filter_shape}")
    if data_format not in ("NHWC", "NCHW"):
        raise ValueError(f"oracle: data_format must be NHWC or NCHW, got {data_format!r}")
    nhwc = data_format == "NHWC"
    batch, height, width, channels = (input_shape[i] for i in ((0, 1, 2, 3) if nhwc else (0, 2, 3, 1)))
    if channels != filter_shape[2]:
        raise ValueError(f"oracle: filter.shape[2] must equal the input's channels, got {filter_shape[2]}, {channels}")
    rows, columns = _axes((height, width), filter_shape[:2], strides, padding, dilations)
    depth = channels * filter_shape[3]
    return (batch, rows.out, columns.out, depth) if nhwc else (batch, depth, rows.out, columns.out)


def value(
    x: Array,
    w: Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    dilations: Sequence[int] = (1, 1),
    data_format: str = "NHWC",
) -> Array:
    """The depthwise convolution itself.

    Args:
      x: the input, (N, H, W, C) for NHWC or (N, C, H, W) for NCHW, of any numeric dtype.
      w: the filter, (taps in height, taps in width, C, M).
      strides, padding, dilations, data_format: as for `output_shape`.

    Returns:
      (N, H', W', C*M) or (N, C*M, H', W'), float64, complex128, int64 or object (see the module's docstring).

    Raises:
      ValueError: as `output_shape`.

    Example:
      >>> x = np.arange(1.0, 7.0).reshape(1, 3, 2, 1)
      >>> w = np.arange(1.0, 5.0).reshape(2, 1, 1, 2)
      >>> value(x, w, padding="VALID").ravel().tolist()
      [10.0, 14.0, 14.0, 20.0, 18.0, 26.0, 22.0, 32.0]
    """
    shape = output_shape(
        x.shape, w.shape, strides=strides, padding=padding, dilations=dilations, data_format=data_format
    )
    x, w = _exact(_to_nhwc(x, data_format), w, w.shape[0] * w.shape[1])
    rows, columns = _axes(x.shape[1:3], w.shape[:2], strides, padding, dilations)
    batch, channels, multiplier = shape[0], w.shape[2], w.shape[3]
    y = np.zeros((batch, rows.out, columns.out, channels, multiplier), x.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for tap, outputs, samples in _meetings(rows, columns):
            y[outputs] += x[samples][..., None] * w[tap]
    return _from_nhwc(y.reshape(batch, rows.out, columns.out, channels * multiplier), data_format)


def input_grad(
    w: Array,
    dy: Array,
    *,
    input_shape: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    dilations: Sequence[int] = (1, 1),
    data_format: str = "NHWC",
) -> Array:
    """The gradient of `sum(dy * value(x, w))` in x; for complex inputs with w conjugated, as TensorFlow defines it.

    Args:
      w: the filter, (taps in height, taps in width, C, M).
      dy: the output's cotangent, of the output's shape.
      input_shape: the shape of x, in `data_format`.
      strides, padding, dilations, data_format: as for `output_shape`.

    Returns:
      An array of shape `input_shape`, in the types of `value`.

    Raises:
      ValueError: as `output_shape`, or dy hasn't the output's shape.

    Example:
      >>> input_grad(np.ones((1, 1, 1, 2)), np.ones((1, 1, 2, 2)), input_shape=(1, 1, 2, 1)).ravel().tolist()
      [2.0, 2.0]
    """
    _check_cotangent(dy, input_shape, w.shape, strides, padding, dilations, data_format)
    kh, kw, channels, multiplier = w.shape
    w, dy = _exact(np.conj(w), _to_nhwc(dy, data_format), kh * kw * multiplier)
    dy = dy.reshape(*dy.shape[:3], channels, multiplier)
    image = (input_shape[1:3]) if data_format == "NHWC" else (input_shape[2:4])
    rows, columns = _axes(image, (kh, kw), strides, padding, dilations)
    dx = np.zeros((dy.shape[0], *image, channels), dy.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for tap, outputs, samples in _meetings(rows, columns):
            dx[samples] += (dy[outputs] * w[tap]).sum(axis=-1)
    return _from_nhwc(dx, data_format)


def filter_grad(
    x: Array,
    dy: Array,
    *,
    filter_shape: Sequence[int],
    strides: Sequence[int] = (1, 1),
    padding: Padding = "SAME",
    dilations: Sequence[int] = (1, 1),
    data_format: str = "NHWC",
) -> Array:
    """The gradient of `sum(dy * value(x, w))` in w; for complex inputs with x conjugated, as TensorFlow defines it.

    Args:
      x: the input, in `data_format`.
      dy: the output's cotangent, of the output's shape.
      filter_shape: the shape of w, (taps in height, taps in width, C, M).
      strides, padding, dilations, data_format: as for `output_shape`.

    Returns:
      An array of shape `filter_shape`, in the types of `value`.

    Raises:
      ValueError: as `output_shape`, or dy hasn't the output's shape.

    Example:
      >>> x = np.array([1.0, 2.0]).reshape(1, 1, 2, 1)
      >>> filter_grad(x, np.ones((1, 1, 2, 1)), filter_shape=(1, 1, 1, 1)).item()
      3.0
    """
    _check_cotangent(dy, x.shape, filter_shape, strides, padding, dilations, data_format)
    kh, kw, channels, multiplier = filter_shape
    dy = _to_nhwc(dy, data_format)
    x, dy = _exact(_to_nhwc(np.conj(x), data_format), dy, dy.shape[0] * dy.shape[1] * dy.shape[2])
    dy = dy.reshape(*dy.shape[:3], channels, multiplier)
    rows, columns = _axes(x.shape[1:3], (kh, kw), strides, padding, dilations)
    dw = np.zeros((kh, kw, channels, multiplier), x.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        for tap, outputs, samples in _meetings(rows, columns):
            dw[tap] = (x[samples][..., None] * dy[outputs]).sum(axis=(0, 1, 2))
    return dw


def magnitude(contraction: Contraction, a: Array, b: Array, **geometry: Any) -> Array:
    """Sum of |a||b| over the terms of each element: what the error bound is measured in.

    Args:
      contraction: `value`, `input_grad` or `filter_grad`.
      a, b: its two arrays.
      **geometry: its keyword arguments.

    Returns:
      A float64 (for integers: exact) array of the contraction's shape.

    Example:
      >>> magnitude(value, np.array([[[[-2.0]]]]), np.array([[[[3.0]]]])).item()
      6.0
    """
    return contraction(np.abs(_exact(a, b, 1)[0]), np.abs(_exact(a, b, 1)[1]), **geometry)


def squares(contraction: Contraction, a: Array, b: Array, **geometry: Any) -> Array:
    """Sum of (|a||b|)**2 over the terms of each element: what the error's variance is measured in.

    Args, Returns: as `magnitude`.

    Example:
      >>> squares(value, np.array([[[[-2.0]]]]), np.array([[[[3.0]]]])).item()
      36.0
    """
    a, b = _exact(a, b, 1)
    return contraction(np.abs(a) ** 2, np.abs(b) ** 2, **geometry)


def terms(contraction: Contraction, a: Array, b: Array, **geometry: Any) -> Array:
    """The number of terms in each element's sum.

    Args, Returns: as `magnitude`, but int64.

    Example:
      >>> terms(value, np.zeros((1, 3, 1, 1)), np.zeros((3, 1, 1, 1))).ravel().tolist()
      [2, 3, 2]
    """
    return contraction(np.ones(a.shape, np.int64), np.ones(b.shape, np.int64), **geometry)


def _check_cotangent(
    dy: Array,
    input_shape: Sequence[int],
    filter_shape: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    dilations: Sequence[int],
    data_format: str,
) -> None:
    shape = output_shape(
        input_shape, filter_shape, strides=strides, padding=padding, dilations=dilations, data_format=data_format
    )
    if tuple(dy.shape) != shape:
        raise ValueError(f"oracle: dy must have the output's shape {shape}, got {tuple(dy.shape)}")
