"""The arrays of a case, and what the oracle expects of each result: values, bound and deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from depthwise.conformance import oracle, tolerance
from depthwise.conformance.case import Case

Array = npt.NDArray[Any]

FIRST_ORDER = ("value", "input_grad", "filter_grad")
# The derivatives of sum(input_grad * u) and sum(filter_grad * v): what a second tape must return.
SECOND_ORDER = ("dx_by_filter", "dx_by_cotangent", "dw_by_input", "dw_by_cotangent")

# Integers up to 2**p are exact in these types; results of half types are rounded once from exact float32 sums.
_EXACT_BITS = {"float16": 15, "bfloat16": 24, "float32": 24, "float64": 53, "complex64": 23, "complex128": 52}
_LARGEST_INPUT = {"float16": 2048, "bfloat16": 256}


@dataclass(frozen=True)
class Expected:
    """What the oracle says about one result: its values, the error allowed, and the deviation of a correct one.

    `nan_too` marks elements that may be NaN instead, since an infinite or NaN cotangent or filter lies over padding
    there: nothing documents whether padding is a zero, so that NaN results, or no term at all, as the oracle has it.
    """

    values: Array
    bound: Array
    deviation: Array | None = None
    nan_too: Array | None = None


class Problem:
    """A case with its arrays: input x, filter w, and the cotangents (gradients that a gradient is given of its result)
    dy of the output, u of dx and v of dw.

    Args:
      case: what to make arrays for. Equal cases give equal arrays.

    Example:
      >>> from depthwise.conformance.case import parse
      >>> Problem(parse("in=1x2x2x1 filter=1x1x3")).dy.shape
      (1, 2, 2, 3)
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.dtype = numpy_dtype(case.dtype)
        self.seeds = [case.seed, *case.input, *case.filter, *case.strides, *case.dilations]
        draw = np.random.default_rng(self.seeds)
        shapes = (case.input_shape, case.filter_shape, case.output_shape)
        self.x, self.w, self.dy = (self._draw(draw, shape) for shape in shapes)
        self.u, self.v = self._draw(draw, case.input_shape), self._draw(draw, case.filter_shape)
        if case.data == "special":
            _scatter_special(draw, self.x)
            _scatter_special(draw, self.dy)
        if case.data == "special-filter":
            _scatter_special(draw, self.w)
        self._expected: dict[str, Expected] = {}

    @cached_property
    def amplitude(self) -> int:
        """The largest integer that is drawn: every sum of products of such integers is exact."""
        case = self.case
        n, *_ = case.input
        out = math.prod(case.output_shape) // max(case.output_shape[3 if case.format == "NHWC" else 1], 1)
        taps = case.filter[0] * case.filter[1]
        if self.dtype.kind in "iu":
            largest = np.iinfo(self.dtype).max
            return max(math.isqrt(int(largest) // taps), 1)  # integer types have no gradients
        longest = max(taps * case.filter[2], out, n)
        amplitude = math.isqrt(2 ** _EXACT_BITS[case.dtype] // longest)
        return max(min(amplitude, _LARGEST_INPUT.get(case.dtype, amplitude)), 1)

    def _draw(self, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
        if self.case.data == "integer" or self.dtype.kind in "iu":
            low = 0 if self.dtype.kind == "u" else -self.amplitude
            if self.dtype.kind == "c":
                real, imaginary = draw.integers(low // 2, self.amplitude // 2, (2, *shape), endpoint=True)
                return np.asarray(real + 1j * imaginary).astype(self.dtype)
            return draw.integers(low, self.amplitude, shape, endpoint=True).astype(self.dtype)
        if self.dtype.kind == "c":
            return np.asarray(draw.normal(size=shape) + 1j * draw.normal(size=shape)).astype(self.dtype)
        return draw.normal(size=shape).astype(self.dtype)

    def expected(self, name: str) -> Expected:
        """What the oracle says about the result `name`, one of FIRST_ORDER or SECOND_ORDER."""
        if name not in self._expected:
            self._expected[name] = self._expect(name)
        return self._expected[name]

    def _expect(self, name: str) -> Expected:
        case = self.case
        shapes: dict[oracle.Contraction, dict[str, Any]] = {
            oracle.value: {},
            oracle.input_grad: {"input_shape": case.input_shape},
            oracle.filter_grad: {"filter_shape": case.filter_shape},
        }
        operands: dict[str, tuple[oracle.Contraction, Array, Array]] = {
            "value": (oracle.value, self.x, self.w),
            "input_grad": (oracle.input_grad, self.w, self.dy),
            "filter_grad": (oracle.filter_grad, self.x, self.dy),
            "dx_by_filter": (oracle.filter_grad, self.u, self.dy),
            "dx_by_cotangent": (oracle.value, self.u, self.w),
            "dw_by_input": (oracle.input_grad, self.v, self.dy),
            "dw_by_cotangent": (oracle.value, self.x, self.v),
        }
        contraction, a, b = operands[name]
        keywords = {**case.geometry, **shapes[contraction]}
        values = contraction(a, b, **keywords)
        if self.dtype.kind in "iu":
            return Expected(values, np.zeros(values.shape))
        if case.data == "integer":  # every sum is exact, so one rounding to the output type is all that may happen
            with np.errstate(over="ignore"):
                return Expected(values.astype(self.dtype).astype(values.dtype), np.zeros(values.shape))
        magnitude = oracle.magnitude(contraction, a, b, **keywords)
        terms = oracle.terms(contraction, a, b, **keywords)
        bound = tolerance.error_bound(values, magnitude, terms, case.dtype)
        if case.data.startswith("special"):
            return Expected(values, bound, nan_too=_over_padding(contraction, a, b, keywords))
        if self.dtype.kind == "c":
            return Expected(values, bound)
        squares = oracle.squares(contraction, a, b, **keywords)
        return Expected(values, bound, tolerance.deviation(values, squares, terms, case.dtype))


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of that name, bfloat16 included."""
    if name == "bfloat16":
        import ml_dtypes  # comes with TensorFlow and with JAX; NumPy has no bfloat16 of its own

        name = ml_dtypes.bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


def _over_padding(contraction: oracle.Contraction, a: Array, b: Array, keywords: dict[str, Any]) -> Array:
    """Where in a result an element that is not finite lies over padding: one of the filter over that of the input, or
    (in the input's gradient) beyond the output or, where strides leave out some, anywhere; or one of the cotangent over
    padding of the input."""
    last = keywords["data_format"] == "NHWC"
    of_first = contraction is oracle.input_grad
    odd = (~np.isfinite(a if of_first else b)).astype(np.int64)
    ones = np.ones((b if of_first else a).shape, np.int64)
    met = contraction(*((odd, ones) if of_first else (ones, odd)), **keywords)
    if contraction is oracle.filter_grad:
        return np.asarray(met < odd.sum((0, 1, 2) if last else (0, 2, 3)).reshape(met.shape[2:]))
    if of_first and max(keywords["strides"]) > 1:
        met = np.zeros_like(met)
    everywhere = odd.sum((0, 1, 3)) if of_first else odd.sum((0, 1)).reshape(-1)
    return np.asarray(met < (everywhere if last else everywhere[:, None, None]))


def _scatter_special(draw: np.random.Generator, a: Array) -> None:
    """NaN and both infinities on about one element in twelve, each at least once where there is room."""
    flat = a.reshape(-1)
    places = draw.permutation(flat.size)[: max(3, flat.size // 12)]
    flat[places] = np.resize(np.array([np.nan, np.inf, -np.inf]), places.size).astype(a.dtype)
