"""How far a correct result may lie from the oracle: derived from rounding, never tuned.

Every element of the op and of its gradients is a sum of n products, s = sum a_i b_i. Let u be the unit roundoff of the
type that the sum is accumulated in and S = sum |a_i||b_i|.

1. *Products and sums.* Each product and each addition returns the exact result times (1 + d), |d| <= u. A product meets
   its own rounding and at most n - 1 additions, whatever the order of summation, so with gamma_n = n*u / (1 - n*u)

       |fl(s) - s| <= gamma_n * S                        (Higham, Accuracy and Stability, section 3.1, eq. 3.5)

   for any order, blocking, vector width or number of threads. Fused multiply-adds only leave roundings out. Adding a
   padding zero is exact. So a result outside of it isn't the formula evaluated in that type.
2. *Complex.* The real part is a real sum of 2n products, and |Re a Re b| + |Im a Im b| <= |a||b|; likewise the
   imaginary part. Hence |fl(s) - s| <= sqrt(2) * gamma_2n * S, for products computed by the textbook formula.
3. *Underflow.* A product below the smallest normal number `tiny` is exact to half a subnormal, or flushed to zero
   (XLA and GPUs do): an absolute error of at most `tiny` each. Sums can only be flushed: at most n + 1 times more.
4. *Output.* One rounding into the output type with unit roundoff u_out: |s| + (1.) is multiplied by u_out, and its
   `tiny` may be flushed. Where accumulation and output types agree this is one u too many in n + 1, and left in.
5. *Oracle.* Its own error is the same bound with u = 2**-53. For float64 targets that doubles the bound.

Accumulation: float16 and bfloat16 in float32 at least, every other type in itself. Integers have bound 0.

*Statistics.* (1.) grows like n, where a real error grows like sqrt(n), so a result may lose bits and stay inside.
Model each rounding d as independent, of mean 0 and, since |d| <= u, of variance at most u**2 / 3 (uniform). The error
is then sum d_i a_i b_i + sum d_j s_j over the partial sums s_j. For data with random signs E s_j**2 is the sum of the
squares of its j terms, and adding one after the other, the order in which these add up to most, gives n/2 + 1 times
Q = sum (a_i b_i)**2. So

    variance <= (u**2 * (n/2 + 2) * Q + u_out**2 * s**2) / 3

and over many elements the mean of error**2 / variance is at most 1, and the mean of error * sign(s) / deviation is 0
up to 1 / sqrt(elements). Truncation, lost low bits and narrow accumulation in long sums all show there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Unit roundoff, smallest normal number and largest number of each type (IEEE 754; bfloat16 has float32's exponent).
_UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
_TINY = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}
_LARGEST = {
    "float16": 65504.0,
    "bfloat16": (2.0 - 2.0**-7) * 2.0**127,
    "float32": (2.0 - 2.0**-23) * 2.0**127,
    "float64": float(np.finfo(np.float64).max),
}
_REAL_PART = {"complex64": "float32", "complex128": "float64"}
_ACCUMULATION = {"float16": "float32", "bfloat16": "float32"}

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def gamma(terms: Array | int, unit: float) -> Array:
    """Higham's gamma_n = n*u / (1 - n*u); infinite where n*u >= 1, since nothing is guaranteed there.

    Example:
      >>> float(gamma(2, 0.25))
      1.0
    """
    nu = np.asarray(terms, np.float64) * unit
    with np.errstate(divide="ignore"):
        return np.asarray(np.where(nu < 1, nu / np.where(nu < 1, 1 - nu, 1), np.inf))


def error_bound(expected: Array, magnitude: Array, terms: Array, dtype: str) -> Array:
    """The largest |result - expected| that a correct implementation can show, per element.

    Args:
      expected: the oracle's values.
      magnitude: sum |a||b| per element, from `oracle.magnitude`.
      terms: the number of terms per element, from `oracle.terms`.
      dtype: name of the result's dtype, "float16" to "complex128" or an integer.

    Returns:
      A float64 array of the shape of `expected`: 0 for integers.

    Raises:
      ValueError: a dtype that has no bound here.

    Example:
      >>> one = np.ones(1)
      >>> bool(error_bound(one, one, one, "float32")[0] < 2.1 * 2**-24)
      True
    """
    if dtype in INTEGERS:
        return np.zeros(np.shape(expected))
    real, inner = _types(dtype)
    factor, n = (np.sqrt(2.0), 2 * terms) if dtype in _REAL_PART else (1.0, terms)
    with np.errstate(invalid="ignore", over="ignore"):
        summed = factor * gamma(n, _UNIT[inner]) * magnitude + (2 * n + 1) * _TINY[inner]
        rounded = _UNIT[real] * (np.abs(expected) + summed) + _TINY[real]
        oracle = factor * gamma(n, _UNIT["float64"]) * magnitude
        bound = np.asarray(summed + rounded + oracle, np.float64)
    return np.where(terms == 0, 0.0, bound)  # an empty sum is exactly 0


def error_in_bounds(actual: Array, expected: Array, bound: Array, dtype: str) -> Array:
    """Each element's error in units of its bound: at most 1 conforms, infinity is a value that no rounding explains.

    NaN must meet NaN and infinity the same infinity; an expected value so large that rounding may reach the type's end
    may be that infinity. Where the bound is 0 the values must be equal.

    Args:
      actual: the result under test, of any dtype.
      expected: the oracle's values, of the same shape.
      bound: from `error_bound`.
      dtype: name of the result's dtype.

    Returns:
      A float64 array of the same shape.

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> error_in_bounds(np.array([1.5]), np.array([1.0]), np.array([0.25]), "float32").tolist()
      [2.0]
    """
    if actual.shape != expected.shape:
        raise ValueError(f"tolerance: actual must have expected's shape {expected.shape}, got {actual.shape}")
    if dtype in INTEGERS:
        wrong = actual.astype(object) != expected.astype(object)
        return np.where(wrong.astype(bool), np.inf, 0.0)
    if dtype in _REAL_PART:
        # Infinite and NaN parts are compared one by one; finite ones share the complex bound.
        parts = [(actual.real, expected.real), (actual.imag, expected.imag)]
        return np.asarray(np.maximum(*(error_in_bounds(a, e, bound, _REAL_PART[dtype]) for a, e in parts)))
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.abs(a - e)
        units = np.where(error == 0, 0.0, error / bound)
        # Rounding to nearest gives infinity from half a last place above the largest number on.
        limit = _LARGEST[dtype] * (1 + _UNIT[dtype] / 2)
        overflow = np.isinf(a) & (np.sign(a) == np.sign(e)) & (np.abs(e) + bound >= limit)
    same = (np.isnan(a) & np.isnan(e)) | (a == e) | overflow
    return np.asarray(np.where(same, 0.0, np.where(np.isfinite(a) & np.isfinite(e), units, np.inf)))


def deviation(expected: Array, squares: Array, terms: Array, dtype: str) -> Array:
    """The largest standard deviation of the error under independent roundings (see *Statistics* above), per element.

    Args:
      expected: the oracle's values.
      squares: sum (|a||b|)**2 per element, from `oracle.squares`.
      terms: the number of terms per element.
      dtype: as for `error_bound`; real floating types alone.

    Returns:
      A float64 array of the shape of `expected`.

    Raises:
      ValueError: a dtype that has no statistics here.

    Example:
      >>> one = np.ones(1)
      >>> bool(deviation(one, one, one, "float32")[0] < 2**-24 * 1.1)
      True
    """
    if dtype not in _UNIT:
        raise ValueError(f"tolerance: dtype must be one of {sorted(_UNIT)}, got {dtype!r}")
    real, inner = _types(dtype)
    summed = _UNIT[inner] ** 2 * (terms / 2 + 2) * squares
    own = _UNIT["float64"] ** 2 * (terms / 2 + 2) * squares  # the oracle's
    return np.asarray(np.sqrt((summed + own + (_UNIT[real] * np.abs(expected)) ** 2) / 3))


def unit_roundoffs(dtype: str) -> tuple[float, float]:
    """The unit roundoffs of the accumulation and of the output, for a dtype as in `error_bound`.

    Example:
      >>> unit_roundoffs("float16") == (2.0**-24, 2.0**-11)
      True
    """
    real, inner = _types(dtype)
    return _UNIT[inner], _UNIT[real]


def _types(dtype: str) -> tuple[str, str]:
    """The real type that a dtype is of, and the one that its sums are accumulated in."""
    real = _REAL_PART.get(dtype, dtype)
    if real not in _UNIT:
        raise ValueError(
            f"tolerance: dtype must be one of {sorted(_UNIT)}, {sorted(_REAL_PART)} or an integer type, got {dtype!r}"
        )
    return real, _ACCUMULATION.get(real, real)
