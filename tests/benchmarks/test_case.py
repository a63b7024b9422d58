"""Cases: their notation, and their sizes against TensorFlow's."""

import unittest

import tensorflow as tf
from parameterized import parameterized

from benchmarks.case import Case, parse
from benchmarks.suites import SUITES, suite

NOTATIONS = [
    "8x56x56x128 k3",
    "1x15x14x16 k3x5 s2x1 VALID",
    "1x9x9x4 k3 s2 d2 m2 float64 NCHW",
    "2x9x8x4 k5 p3 bfloat16",
]


class CaseTest(unittest.TestCase):
    @parameterized.expand([(text,) for text in NOTATIONS])
    def test_notation_is_read_back(self, text):
        self.assertEqual(str(parse(text)), text)

    def test_words_in_any_order(self):
        self.assertEqual(parse("1x9x9x4 NCHW VALID k3"), Case(1, 9, 9, 4, (3, 3), padding="VALID", data_format="NCHW"))

    @parameterized.expand([("8x56x56 k3",), ("8x56x56x128",), ("8x56x56x128 k3 full",), ("8x56x56x128 kthree",)])
    def test_unreadable(self, text):
        with self.assertRaisesRegex(ValueError, "case"):
            parse(text)

    @parameterized.expand(
        [("7x9", (3, 2), (1, 1), "SAME"), ("8x7", (3, 3), (2, 2), "SAME"), ("8x7", (3, 4), (2, 1), "VALID")]
    )
    def test_sizes_are_tensorflows(self, image, kernel, strides, padding):
        height, width = map(int, image.split("x"))
        case = Case(2, height, width, 3, kernel, strides, padding, multiplier=2)
        x, w = tf.zeros(case.input_shape), tf.zeros((*kernel, 1, 6))
        y = tf.nn.conv2d(x, w, [1, *strides, 1], padding)
        self.assertEqual(tuple(y.shape), case.output_shape)
        padded = tf.pad(x, [[0, 0], *case.pads, [0, 0]])
        self.assertEqual(tf.nn.conv2d(padded, w, [1, *strides, 1], "VALID").shape, y.shape)

    def test_bytes_moved(self):
        self.assertEqual(parse("1x4x4x8 k3 s2").bytes_moved, 4 * (4 * 4 * 8 + 2 * 2 * 8))
        self.assertEqual(parse("1x4x4x8 k3 m2 float64").bytes_moved, 8 * (4 * 4 * 8 + 4 * 4 * 16))


class SuitesTest(unittest.TestCase):
    @parameterized.expand([(name,) for name in SUITES])
    def test_every_case_once_and_possible(self, name):
        rows = suite(name, 8)
        self.assertEqual(len({row.case for row in rows}), len(rows))
        for row in rows:
            self.assertEqual(parse(str(row.case)), row.case)
            self.assertGreater(min(row.case.output_shape), 0)

    def test_variations_are_measured_with_what_they_vary(self):
        rows = suite("variations", 8)
        self.assertLessEqual({row.near for row in rows if row.near}, {row.case for row in rows})
