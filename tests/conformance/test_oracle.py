"""The oracle against the formula written as five nested loops, against documented examples, and against itself."""

import itertools
import unittest

import numpy as np
from depthwise.conformance import oracle
from parameterized import parameterized

GEOMETRIES = [
    # image, taps, strides, dilations, padding
    ((5, 7), (3, 3), (1, 1), (1, 1), "SAME"),
    ((5, 7), (2, 4), (1, 1), (1, 1), "SAME"),
    ((6, 5), (3, 2), (2, 3), (1, 1), "SAME"),
    ((9, 8), (3, 2), (2, 3), (2, 1), "SAME"),
    ((9, 8), (3, 2), (3, 2), (2, 3), "VALID"),
    ((3, 3), (5, 5), (1, 2), (1, 2), "SAME"),
    ((3, 3), (5, 5), (1, 1), (1, 1), "VALID"),
    ((4, 3), (3, 2), (2, 1), (1, 3), ((2, 0), (1, 4))),
    ((1, 1), (3, 3), (2, 2), (1, 1), ((10, 20), (15, 25))),
    ((0, 4), (3, 3), (1, 1), (1, 1), "SAME"),
    ((4, 0), (2, 2), (1, 1), (1, 1), ((1, 1), (1, 1))),
]


def loops(x, w, dy, geometry):
    """(y, dx, dw) by the formula, one scalar product at a time; sizes and pads from TensorFlow's documentation."""
    (_, strides, dilations, padding) = geometry
    batch, *image, channels = x.shape
    kh, kw, _, multiplier = w.shape
    span = [(k - 1) * r + 1 for k, r in zip((kh, kw), dilations, strict=True)]
    if padding == "SAME":
        out = [int(np.ceil(n / s)) for n, s in zip(image, strides, strict=True)]
        total = [max((o - 1) * s + e - n, 0) for o, s, e, n in zip(out, strides, span, image, strict=True)]
        before = [t // 2 for t in total]
    else:
        pads = ((0, 0), (0, 0)) if padding == "VALID" else padding
        padded = [n + sum(p) for n, p in zip(image, pads, strict=True)]
        out = [max(int(np.ceil((n - e + 1) / s)), 0) for n, e, s in zip(padded, span, strides, strict=True)]
        before = [p[0] for p in pads]
    y = np.zeros((batch, *out, channels * multiplier))
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    dy = dy(y.shape)
    ranges = (batch, *out, kh, kw, channels, multiplier)
    for b, i, j, di, dj, k, q in itertools.product(*map(range, ranges)):
        h = strides[0] * i + dilations[0] * di - before[0]
        v = strides[1] * j + dilations[1] * dj - before[1]
        if 0 <= h < image[0] and 0 <= v < image[1]:
            depth = k * multiplier + q
            y[b, i, j, depth] += x[b, h, v, k] * w[di, dj, k, q]
            dx[b, h, v, k] += dy[b, i, j, depth] * w[di, dj, k, q]
            dw[di, dj, k, q] += dy[b, i, j, depth] * x[b, h, v, k]
    return y, dx, dw, dy


class OracleTest(unittest.TestCase):
    @parameterized.expand([(g, f) for g in GEOMETRIES for f in ("NHWC", "NCHW")])
    def test_agrees_with_nested_loops(self, geometry, data_format):
        image, taps, strides, dilations, padding = geometry
        draw = np.random.default_rng(0)
        x = draw.normal(size=(2, *image, 3))
        w = draw.normal(size=(*taps, 3, 2))
        y, dx, dw, dy = loops(x, w, lambda shape: draw.normal(size=shape), geometry_of(geometry))
        place = (lambda a: a) if data_format == "NHWC" else (lambda a: a.transpose(0, 3, 1, 2))
        kw = {"strides": strides, "dilations": dilations, "padding": padding, "data_format": data_format}
        x, y, dx, dy = map(place, (x, y, dx, dy))
        self.assertEqual(oracle.output_shape(x.shape, w.shape, **kw), y.shape)
        np.testing.assert_allclose(oracle.value(x, w, **kw), y, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(oracle.input_grad(w, dy, input_shape=x.shape, **kw), dx, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(oracle.filter_grad(x, dy, filter_shape=w.shape, **kw), dw, rtol=1e-12, atol=1e-12)

    @parameterized.expand(
        [
            ("VALID", [10, 14, 14, 20, 18, 26, 22, 32]),
            (((1, 0), (1, 0)), [0, 0, 3, 4, 6, 8, 0, 0, 10, 14, 14, 20, 0, 0, 18, 26, 22, 32]),
        ]
    )
    def test_examples_of_tensorflows_documentation(self, padding, expected):
        x = np.arange(1.0, 7.0).reshape(1, 3, 2, 1)
        w = np.arange(1.0, 5.0).reshape(2, 1, 1, 2)
        self.assertEqual(oracle.value(x, w, padding=padding).ravel().tolist(), expected)

    def test_infinite_filter_value_never_meets_padding(self):
        w = np.array([np.inf, 1.0, np.inf]).reshape(3, 1, 1, 1)
        self.assertEqual(oracle.value(np.full((1, 1, 1, 1), 2.0), w).item(), 2.0)

    def test_integers_are_exact_beyond_64_bits(self):
        big = np.full((1, 2, 1, 1), 2**62, np.int64)
        result = oracle.value(big, np.full((2, 1, 1, 1), 2**62, np.int64), padding="VALID")
        self.assertEqual(result.item(), 2**125)

    def test_complex_gradients_conjugate(self):
        w, dy = np.full((1, 1, 1, 1), 1j), np.full((1, 1, 1, 1), 2.0 + 0j)
        self.assertEqual(oracle.input_grad(w, dy, input_shape=(1, 1, 1, 1)).item(), -2j)
        self.assertEqual(oracle.filter_grad(w, dy, filter_shape=(1, 1, 1, 1)).item(), -2j)

    def test_terms_magnitude_and_squares(self):
        x = np.array([1.0, -2.0, 3.0]).reshape(1, 3, 1, 1)
        w = np.array([1.0, -1.0, 2.0]).reshape(3, 1, 1, 1)
        self.assertEqual(oracle.terms(oracle.value, x, w).ravel().tolist(), [2, 3, 2])
        self.assertEqual(oracle.magnitude(oracle.value, x, w).ravel().tolist(), [5.0, 9.0, 5.0])
        self.assertEqual(oracle.squares(oracle.value, x, w).ravel().tolist(), [17.0, 41.0, 13.0])

    @parameterized.expand(
        [
            ({"strides": (0, 1)}, "strides"),
            ({"padding": "same"}, "padding"),
            ({"data_format": "NHCW"}, "data_format"),
        ]
    )
    def test_refuses(self, kw, name):
        with self.assertRaisesRegex(ValueError, name):
            oracle.value(np.ones((1, 2, 2, 1)), np.ones((1, 1, 1, 1)), **kw)

    def test_refuses_a_cotangent_of_another_shape(self):
        with self.assertRaisesRegex(ValueError, "dy"):
            oracle.input_grad(np.ones((1, 1, 1, 1)), np.ones((1, 2, 2, 1)), input_shape=(1, 3, 2, 1))


def geometry_of(row):
    """(image, strides, dilations, padding): what `loops` needs beside the arrays."""
    image, _, strides, dilations, padding = row
    return image, strides, dilations, padding
