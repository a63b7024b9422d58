"""The bound holds for every correct order of summation, and is not so wide that narrow accumulation fits in it."""

import unittest

import numpy as np
from depthwise.conformance import tolerance
from parameterized import parameterized


def dot(a, b, accumulation, order):
    """Sums of products over the last axis, every product and sum rounded to `accumulation`."""
    products = (a.astype(accumulation) * b.astype(accumulation)).astype(accumulation)[:, order]
    total = products[:, 0]
    for i in range(1, products.shape[1]):
        total = (total + products[:, i]).astype(accumulation)
    return total


def problem(n, dtype, rows=2000):
    draw = np.random.default_rng(n)
    a, b = (draw.normal(size=(rows, n)).astype(dtype) for _ in "ab")
    exact = a.astype(np.float64), b.astype(np.float64)
    expected = (exact[0] * exact[1]).sum(-1)
    magnitude = np.abs(exact[0] * exact[1]).sum(-1)
    squares = ((exact[0] * exact[1]) ** 2).sum(-1)
    return a, b, expected, magnitude, squares, np.full(rows, n)


class BoundTest(unittest.TestCase):
    @parameterized.expand([(n, t) for n in (1, 9, 49, 400) for t in ("float16", "float32", "float64")])
    def test_correct_results_conform_in_any_order(self, n, dtype):
        a, b, expected, magnitude, squares, terms = problem(n, dtype)
        bound = tolerance.error_bound(expected, magnitude, terms, dtype)
        inner = "float32" if dtype == "float16" else dtype
        for order in (np.arange(n), np.arange(n)[::-1], np.random.default_rng(1).permutation(n)):
            result = dot(a, b, inner, order).astype(dtype)
            self.assertLessEqual(tolerance.error_in_bounds(result, expected, bound, dtype).max(), 1.0)
            scaled = (result.astype(np.float64) - expected) / tolerance.deviation(expected, squares, terms, dtype)
            self.assertLess((scaled**2).mean(), 1.0)

    @parameterized.expand([(9, "float32", "float16"), (9, "float64", "float32"), (9, "float16", "float16")])
    def test_narrow_accumulation_does_not_conform(self, n, dtype, accumulation):
        a, b, expected, magnitude, _, terms = problem(n, dtype)
        bound = tolerance.error_bound(expected, magnitude, terms, dtype)
        result = dot(a, b, accumulation, np.arange(n)).astype(dtype)
        self.assertGreater(tolerance.error_in_bounds(result, expected, bound, dtype).max(), 1.0)

    def test_statistics_see_two_lost_bits_that_the_bound_does_not(self):
        a, b, expected, magnitude, squares, terms = problem(9, "float32")
        result = dot(a, b, "float32", np.arange(9))
        lossy = (result.view(np.int32) & ~np.int32(3)).view(np.float32)
        bound = tolerance.error_bound(expected, magnitude, terms, "float32")
        self.assertLess(tolerance.error_in_bounds(lossy, expected, bound, "float32").max(), 1.0)
        scaled = (lossy - expected) / tolerance.deviation(expected, squares, terms, "float32")
        self.assertLess((scaled * np.sign(expected)).mean(), -6 / np.sqrt(scaled.size))

    def test_complex_products_conform(self):
        draw = np.random.default_rng(3)
        a, b = ((draw.normal(size=(500, 9)) + 1j * draw.normal(size=(500, 9))).astype(np.complex64) for _ in "ab")
        wide = a.astype(np.complex128) * b.astype(np.complex128)
        bound = tolerance.error_bound(wide.sum(-1), np.abs(wide).sum(-1), np.full(500, 9), "complex64")
        result = (a * b).sum(-1)
        self.assertLessEqual(tolerance.error_in_bounds(result, wide.sum(-1), bound, "complex64").max(), 1.0)
        self.assertGreater(tolerance.error_in_bounds(result.conj(), wide.sum(-1), bound, "complex64").max(), 1.0)

    def test_integers_and_empty_sums_are_exact(self):
        one = np.ones(1)
        self.assertEqual(tolerance.error_bound(one, one, one, "int32").item(), 0.0)
        self.assertEqual(tolerance.error_bound(one, one, 0 * one, "float32").item(), 0.0)

    @parameterized.expand(
        [
            ("nan meets nan", np.nan, np.nan, 0.0),
            ("nan swallowed", 1.0, np.nan, np.inf),
            ("nan invented", np.nan, 1.0, np.inf),
            ("wrong infinity", -np.inf, np.inf, np.inf),
            ("infinity invented", np.inf, 1.0, np.inf),
            ("rounded past the largest", np.inf, 65519.9, 0.0),
            ("not past it", np.inf, 65000.0, np.inf),
        ]
    )
    def test_special_values(self, _, actual, expected, units):
        bound = np.array([0.5])
        error = tolerance.error_in_bounds(np.array([actual]), np.array([expected]), bound, "float16")
        self.assertEqual(error.item(), units)

    def test_refuses(self):
        with self.assertRaisesRegex(ValueError, "dtype"):
            tolerance.error_bound(np.ones(1), np.ones(1), np.ones(1), "float8")
        with self.assertRaisesRegex(ValueError, "shape"):
            tolerance.error_in_bounds(np.ones(1), np.ones(2), np.ones(2), "float32")
