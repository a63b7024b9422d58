"""What AutoGraph makes of a function that calls the op."""

import traceback
import unittest
from unittest import mock

import tensorflow as tf
from depthwise.ops import depthwise_conv2d, explain
from parameterized import parameterized


def converted_names():
    """The functions in the middle of which this is called and which AutoGraph has written."""
    return {frame.name for frame in traceback.extract_stack() if "__autograph_generated_file" in frame.filename}


class AutographTest(unittest.TestCase):
    @parameterized.expand([("written out", 3), ("in a loop", 9)])
    def test_only_the_caller_is_converted(self, _, size):
        x, w = tf.ones([1, 9, 9, 2]), tf.ones([size, size, 2, 1])
        converted = []
        multiply = tf.raw_ops.Mul

        def spied(**arguments):
            converted.append(converted_names())
            return multiply(**arguments)

        @tf.function(jit_compile=True)
        def second_order(x, w):
            with tf.GradientTape() as outer:
                outer.watch([x, w])
                with tf.GradientTape() as tape:
                    tape.watch([x, w])
                    y = depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")
                gradients = tape.gradient(y, [x, w])
            return outer.gradient(gradients, [x, w])

        with mock.patch.object(tf.raw_ops, "Mul", spied):
            second_order.get_concrete_function(x, w)
        self.assertGreaterEqual(len(converted), 5)
        self.assertEqual(set().union(*converted), {"tf__second_order"})

    def test_not_to_explain_either(self):
        converted = []

        @tf.function
        def explained(x, w):
            explain(x, w, [1, 1, 1, 1], "SAME")
            return x

        def spied():
            converted.append(converted_names())
            return "graph"

        with mock.patch("depthwise.ops.depthwise.current_mode", spied):
            explained.get_concrete_function(tf.ones([1, 5, 5, 2]), tf.ones([3, 3, 2, 1]))
        self.assertEqual(converted, [{"tf__explained"}])
