"""What is left of the portable lowering in a graph that TensorFlow has prepared to run, or that XLA has compiled."""

import tempfile
import unittest

import tensorflow as tf
from depthwise.ops import depthwise_conv2d

from tests.ops.tracing import operations_that_run

IMAGES, FILTERS = [2, 9, 8, 4], [3, 3, 4, 1]


def network(lowering):
    """Two layers of convolution, bias and activation."""
    w, b = tf.Variable(tf.random.normal(FILTERS)), tf.Variable(tf.random.normal([4]))

    def run(x):
        for _ in range(2):
            x = tf.nn.relu6(tf.nn.bias_add(depthwise_conv2d(x, w, [1] * 4, "SAME", lowering=lowering), b))
        return x

    return run, (w, b)


class GraphTest(unittest.TestCase):
    def test_grappler_leaves_what_native_is(self):
        x = tf.random.normal(IMAGES)
        found, native = (operations_that_run(network(lowering)[0], x) for lowering in ("portable", "native"))
        # What is left of the condition, and names in place of what was removed.
        for op in ("DeviceIndex", "Identity", "Const", "NoOp"):
            found.pop(op, None), native.pop(op, None)
        self.assertEqual(found, native)
        self.assertTrue(any("DepthwiseConv2d" in op for op in found), found)


class CompiledTest(unittest.TestCase):
    def assert_fused(self, function):
        code = function.experimental_get_compiler_ir(tf.zeros(IMAGES))(stage="optimized_hlo")
        for op in ("convolution(", "custom-call", "conditional("):
            self.assertNotIn(op, code)

    def test_inside_a_graph_that_xla_does_not_compile(self):
        # Grappler prepares the outer graph: it must not answer for the function inside. Which side XLA compiled shows
        # where the first tap, which is infinite, stands on the padding: a convolution would multiply the two (NaN).
        w = tf.tensor_scatter_nd_update(tf.ones(FILTERS), [[0, 0, 0, 0]], [float("inf")])

        @tf.function(autograph=False, jit_compile=True)
        def layer(x):
            return depthwise_conv2d(x, w, [1] * 4, "SAME", lowering="portable")

        outer = tf.function(lambda x: layer(x) + 1, autograph=False)
        self.assertEqual(outer(tf.ones(IMAGES))[0, 0, 0, 0], 5.0)

    def test_saved_loaded_and_compiled(self):
        run, variables = network("portable")
        module = tf.Module()
        module.variables_ = variables
        module.run = tf.function(run, autograph=False, input_signature=[tf.TensorSpec(IMAGES)])
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(module, folder)
            loaded = tf.saved_model.load(folder)
        self.assert_fused(tf.function(lambda x: loaded.run(x), autograph=False, jit_compile=True))
        x = tf.random.normal(IMAGES)
        tf.debugging.assert_near(loaded.run(x), run(x))
