"""A strided convolution with its oracle, for tests of where the op is called from."""

import unittest

import tensorflow as tf
from depthwise.conformance.case import parse
from depthwise.conformance.data import Problem
from depthwise.ops import depthwise_conv2d
from results import compare


class StridedCase(unittest.TestCase):
    def setUp(self):
        self.problem = Problem(parse("in=3x5x6x2 filter=3x3x2 strides=2x2"))
        self.x, self.w, self.dy = map(tf.constant, (self.problem.x, self.problem.w, self.problem.dy))

    def expected(self, tensor, name="value"):
        compare(self, tensor, self.problem.expected(name), "float32", name)

    @staticmethod
    def op(x, w, lowering="auto"):
        return depthwise_conv2d(x, w, [1, 2, 2, 1], "SAME", lowering=lowering)

    def gradient(self, x, w, dy, lowering="auto"):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = self.op(x, w, lowering)
        return tape.gradient(y, [x, w], dy)
