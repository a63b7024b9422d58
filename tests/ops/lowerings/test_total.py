"""The sum of tensors: its order, and how few ops XLA is handed for it."""

import unittest

import numpy as np
import tensorflow as tf
from depthwise.ops.lowerings.total import total
from parameterized import parameterized


def traced(jit_compile):
    terms = [tf.TensorSpec([64])] * 5
    function = tf.function(lambda *terms: total(list(terms)), autograph=False, jit_compile=jit_compile)
    return function.get_concrete_function(*terms)


class TotalTest(unittest.TestCase):
    @parameterized.expand([("graph", False), ("xla", True)])
    def test_in_order(self, _, jit_compile):
        """Large terms that cancel: every other order rounds otherwise."""
        rng = np.random.default_rng(0)
        first, large, *others = (rng.standard_normal((4, 64)) * [[1], [1e7], [1], [1]]).astype(np.float32)
        terms = [first, large, -large, *others]
        expected = terms[0]
        for term in terms[1:]:
            expected = expected + term
        self.assertFalse((sum(terms[1:], 0 * terms[0]) + terms[0] == expected).all())
        found = traced(jit_compile)(*map(tf.constant, terms)).numpy()
        np.testing.assert_array_equal(found, expected)

    def test_one_op_under_xla(self):
        """Additions one by one, each with what holds them apart outside XLA, took a third longer to trace."""
        ops = [op.type for op in traced(jit_compile=True).graph.get_operations()]
        self.assertEqual(ops.count("AddN"), 1)
        self.assertNotIn("EnsureShape", ops)
