"""How callables are run, and what the targets say about the TensorFlow that they run on."""

import functools
import itertools
import os
import subprocess
import sys
import unittest

import numpy as np
import tensorflow as tf
from depthwise.conformance.case import parse
from depthwise.conformance.data import Problem
from depthwise.conformance.targets.tensorflow import TensorFlowTarget, uses_onednn
from depthwise.ops.lowerings.native.kernels import onednn_runs_grouped_convolutions
from parameterized import parameterized


class VersionsTest(unittest.TestCase):
    @unittest.skipIf(tf.config.list_physical_devices("GPU"), "with a GPU, the op does not ask for oneDNN")
    def test_onednn_is_where_its_kernels_run(self):
        # Asked of a private module, which a release may move: the kernels themselves tell.
        self.assertEqual(uses_onednn(), onednn_runs_grouped_convolutions())

    def test_they_need_no_second_keras(self):
        # Where Keras 2 is asked for, `tf.keras` is a package that TensorFlow comes without.
        ask = (
            "import tensorflow as tf\n"
            "from depthwise.conformance.targets.tensorflow import TensorFlowTarget\n"
            "print(TensorFlowTarget(tf.nn.depthwise_conv2d).versions()['keras'])"
        )
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
        ran = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
        self.assertRegex(ran.stdout, r"^3\.\d+")


class LeftOutError(NotImplementedError):
    def __init__(self, what, why):
        super().__init__(f"{what}: {why}")


class LeavesOut:
    def __call__(self, *arguments, **options):
        raise LeftOutError("dilations", "not written yet")


class ModeTest(unittest.TestCase):
    @parameterized.expand(
        itertools.product(["eager", "graph", "dynamic", "xla"], [LeavesOut(), functools.partial(LeavesOut())])
    )
    def test_a_target_of_any_kind_has_errors_of_its_own(self, mode, op):
        problem = Problem(parse(f"in=2x5x6x3 filter=3x3x2 mode={mode}"))
        with self.assertRaisesRegex(LeftOutError, "^dilations: not written yet$"):
            TensorFlowTarget(op).prepare(problem, ["value"])()

    @parameterized.expand(
        [(lambda y: y.numpy(), "ndarray"), (lambda y: [y], "list"), (lambda _: None, "NoneType"), (tf.Variable, "Var")]
    )
    def test_a_target_returns_a_tensor(self, make, kind):
        def op(input, filter, **arguments):
            return make(tf.nn.depthwise_conv2d(input, filter, **arguments))

        problem = Problem(parse("in=1x5x6x3 filter=3x3x2"))
        for wanted in (["value"], ["value", "input_grad"]):
            with self.assertRaisesRegex(TypeError, f"must return a tf.Tensor, got .*{kind}"):
                TensorFlowTarget(op).prepare(problem, wanted)()

    @parameterized.expand(
        [
            ("mode=graph", (2, 5, 6, 3), (2, 5, 6, 6)),
            ("mode=dynamic", (None, None, None, 3), (None, None, None, 6)),
            ("mode=dynamic unknown=N", (None, 5, 6, 3), (None, 5, 6, 6)),
            ("mode=xla unknown=HW", (2, None, None, 3), (2, None, None, 6)),
        ]
    )
    def test_a_target_is_traced_with_what_the_case_leaves_known(self, words, image, cotangent):
        seen = []

        @tf.custom_gradient
        def convolved(x, w):
            def backward(dy):
                seen.append(tuple(dy.shape))
                return tf.zeros_like(x), tf.zeros_like(w)

            seen.append(tuple(x.shape))
            return tf.nn.depthwise_conv2d(x, w, [1] * 4, "SAME"), backward

        problem = Problem(parse(f"in=2x5x6x3 filter=3x3x2 {words}"))
        target = TensorFlowTarget(lambda input, filter, **_: convolved(input, filter))
        target.prepare(problem, ["value", "input_grad"])()
        self.assertEqual(seen, [image, cotangent])

    @parameterized.expand(["graph", "dynamic", "xla"])
    def test_a_target_may_ask_a_tensor_with_if(self, mode):
        """As it may in a user's `tf.function`."""

        def op(input, filter, **arguments):
            if tf.reduce_sum(tf.abs(input)) > 0:
                return tf.nn.depthwise_conv2d(input, filter, **arguments)
            return tf.nn.depthwise_conv2d(input, -filter, **arguments)

        problem = Problem(parse(f"in=2x5x6x3 filter=3x3x2 mode={mode}"))
        value = TensorFlowTarget(op).prepare(problem, ["value"])().arrays["value"]
        np.testing.assert_allclose(value, problem.expected("value").values, atol=1e-4)
