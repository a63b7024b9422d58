"""What TensorFlow does around its kernels must not abort: shown in processes of their own."""

import os
import subprocess
import sys
import textwrap
import unittest

import tensorflow as tf
from depthwise.ops import depthwise_conv2d

PREDICT = textwrap.dedent("""
    import tensorflow as tf
    from depthwise.ops import depthwise_conv2d
    w, bias = tf.random.normal([3, 3, 16, 1]), tf.random.normal([16])

    x = tf.random.normal([64, 8, 8, 16])
    padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    for strides in ([1, 1, 1, 1], [1, 2, 2, 1]):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 16])])
        def features(x):
            y = depthwise_conv2d(x, w, strides, [[0, 0], [1, 1], [1, 1], [0, 0]], lowering="native")
            return tf.nn.relu(tf.nn.bias_add(y, bias))

        y = tf.raw_ops.DepthwiseConv2dNative(input=padded, filter=w, strides=strides, padding="VALID")
        tf.debugging.assert_near(features(x), tf.nn.relu(y + bias), atol=1e-4)
""")


class GrapplerTest(unittest.TestCase):
    def test_explicit_padding_survives_the_fusion_with_bias_and_activation(self):
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
        run = subprocess.run([sys.executable, "-c", PREDICT], capture_output=True, text=True, env=environment)
        self.assertEqual(run.returncode, 0, run.stderr[-2000:])


class ExactFilterGradientTest(unittest.TestCase):
    def test_layers_share_it_and_none_holds_it(self):
        """What is only for numbers that are not finite: in every layer, it would delay a model's first step."""

        @tf.function(autograph=False)
        def gradients(x, filters):
            with tf.GradientTape() as tape:
                tape.watch(filters)
                y = x
                for w in filters:
                    y = depthwise_conv2d(y, w, [1, 1, 1, 1], "SAME", lowering="native")
            return tape.gradient(y, filters)

        filters = [tf.ones([k, k, 4, 1]) for k in (3, 5, 3)]
        graph = gradients.get_concrete_function(tf.ones([2, 9, 8, 4]), filters).graph.as_graph_def()
        shared = [f for f in graph.library.function if "_noinline" in f.attr and f.attr["_noinline"].b]
        self.assertEqual(len(shared), 1)
        calls = [
            node
            for function in graph.library.function
            for node in function.node_def
            if "f" in node.attr and node.attr["f"].func.name == shared[0].signature.name
        ]
        self.assertEqual(len(calls), len(filters))
