"""What an island leaves of the graph around it."""

import unittest

import tensorflow as tf
from depthwise.ops import depthwise_conv2d

from tests.ops.tracing import operations_that_run


class GraphTest(unittest.TestCase):
    def test_what_follows_is_simplified_as_ever(self):
        def run(x, w):
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = depthwise_conv2d(x, w, [1] * 4, "SAME", lowering="island")
            # As the gradient of a square has it; TensorFlow leaves it where it does not know the shape.
            return [tensor**1.0 for tensor in (y, *tape.gradient(y, [x, w], output_gradients=tf.sin(y)))]

        found = operations_that_run(run, tf.random.normal([2, 9, 8, 4]), tf.random.normal([3, 3, 4, 1]))
        self.assertEqual((found["PartitionedCall"], found["Pow"]), (3, 0), found)
