"""What TensorFlow does around its kernels must not abort: shown in processes of their own."""

import os
import subprocess
import sys
import textwrap
import unittest

from parameterized import parameterized

PREDICT = textwrap.dedent("""
    import tensorflow as tf
    from depthwise.ops import depthwise_conv2d
    w, bias = tf.random.normal([3, 3, 16, 1]), tf.random.normal([16])

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 16])])
    def features(x):
        y = depthwise_conv2d(x, w, [1, {stride}, {stride}, 1], [[0, 0], [1, 1], [1, 1], [0, 0]], lowering="native")
        return tf.nn.relu(tf.nn.bias_add(y, bias))

    x = tf.random.normal([64, 8, 8, 16])
    padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    y = tf.raw_ops.DepthwiseConv2dNative(input=padded, filter=w, strides=[1, {stride}, {stride}, 1], padding="VALID")
    tf.debugging.assert_near(features(x), tf.nn.relu(y + bias), atol=1e-4)
""")


class GrapplerTest(unittest.TestCase):
    @parameterized.expand([(1,), (2,)])
    def test_explicit_padding_survives_the_fusion_with_bias_and_activation(self, stride):
        script = PREDICT.format(stride=stride)
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        self.assertEqual(run.returncode, 0, run.stderr[-2000:])


if __name__ == "__main__":
    unittest.main()
