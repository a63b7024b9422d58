"""The chooser's table, and that `explain` tells what the graph and XLA's code then hold."""

import contextlib
import itertools
import unittest

import numpy as np
import tensorflow as tf
from depthwise.ops import LOWERINGS, depthwise_conv2d, explain, without_islands
from depthwise.ops.choose import TABLE
from depthwise.ops.lowerings.native.kernels import onednn_runs_grouped_convolutions
from parameterized import parameterized
from tracing import traced

ARGUMENTS = dict(strides=[1, 1, 1, 1], padding="SAME")
SHAPES = (1, 6, 6, 2), (3, 3, 2, 1)


class TableTest(unittest.TestCase):
    def test_the_last_row_takes_everything_with_reasons_throughout(self):
        self.assertTrue(TABLE[-1].condition(None, "output", "eager"))
        for row in TABLE:
            self.assertIn(row.lowering, LOWERINGS)
            self.assertTrue(row.reason and row.evidence)

    @parameterized.expand(
        [
            ("float32", False, "native"),
            ("float32", True, "taps"),
            ("bfloat16", False, "native"),
            ("int8", False, "taps"),
            ("complex64", True, "taps"),
        ]
    )
    def test_choices(self, dtype, compiled, lowering):
        x, w = (tf.cast(tf.ones(shape), dtype) for shape in SHAPES)
        found = traced(lambda: explain(x, w, **ARGUMENTS), jit_compile=compiled)
        self.assertEqual({found.output.lowering, found.input_grad.lowering, found.filter_grad.lowering}, {lowering})

    @parameterized.expand(
        [
            # with oneDNN and without it: output, input gradient, filter gradient
            ("5x5", [8, 28, 28, 192], dict(k=5), "native native island", "island island island"),
            ("4x4", [8, 28, 28, 192], dict(k=4), "native native island", "island island island"),
            ("31x3", [8, 28, 28, 192], dict(k=(31, 3)), "native native native", "island island island"),
            ("3x31", [8, 28, 28, 192], dict(k=(3, 31)), "native native island", "island island island"),
            ("7x3", [8, 28, 28, 192], dict(k=(7, 3), stride=2), "native native island", "island island island"),
            ("7x7", [8, 28, 28, 192], dict(k=7), "native native island", "island island island"),
            ("of_few_channels", [8, 112, 112, 5], dict(k=7), "native native native", "island island island"),
            ("of_more_channels", [8, 112, 112, 6], dict(k=7), "native native island", "island island island"),
            (
                "of_few_channels_strided",
                [8, 112, 112, 5],
                dict(k=7, stride=2),
                "native native native",
                "island island island",
            ),
            ("3x3", [8, 56, 56, 128], {}, "native native native", "island island island"),
            ("2x4", [8, 56, 56, 128], dict(k=(2, 4)), "native native island", "island island native"),
            ("3x1", [8, 56, 56, 128], dict(k=(3, 1)), "native native native", "island island native"),
            ("2x1", [8, 56, 56, 128], dict(k=(2, 1)), "native native native", "native native native"),
            ("of_one_image", [1, 28, 28, 192], {}, "native native native", "island island island"),
            ("5x5_of_one_image", [1, 28, 28, 192], dict(k=5), "native native native", "island island island"),
            ("of_one_smaller_image", [1, 14, 14, 576], {}, "native native native", "native native native"),
            ("dilated", [8, 56, 56, 128], dict(rate=2), "native native island", "island island island"),
            ("dilated_far", [8, 33, 33, 256], dict(rate=6), "island island island", "island island island"),
            ("dilated_5x5", [8, 33, 33, 256], dict(k=5, rate=4), "native native island", "island island island"),
            ("strided", [8, 56, 56, 128], dict(stride=2), "native native native", "island island native"),
            ("2x1_strided", [8, 56, 56, 128], dict(k=(2, 1), stride=2), "native native native", "island island native"),
            ("3x5_strided", [8, 56, 56, 128], dict(k=(3, 5), stride=2), "native native island", "island island native"),
            ("4x4_strided", [8, 56, 56, 128], dict(k=4, stride=2), "native native island", "island island island"),
            ("7x7_strided", [8, 56, 56, 64], dict(k=7, stride=2), "native native island", "island island island"),
            (
                "10x5_strided",
                [8, 56, 56, 64],
                dict(k=(10, 5), stride=2),
                "native native island",
                "native island island",
            ),
            ("unequal", [8, 56, 56, 128], dict(stride=(2, 1)), "native native native", "island island island"),
            ("nchw", [8, 128, 56, 56], dict(format="NCHW"), "island island island", "island island island"),
            ("large", [8, 512, 14, 14], dict(k=27, format="NCHW"), "native native island", "island island island"),
            ("float64", [8, 56, 56, 128], dict(dtype="float64"), "island island island", "island island island"),
            ("multiplier", [8, 56, 56, 128], dict(multiplier=2), "island island island", "island island island"),
            ("multiplier_large", [8, 56, 56, 128], dict(multiplier=4), "island island island", "native island native"),
            ("multiplier_4", [8, 28, 28, 128], dict(multiplier=4), "island island island", "island island native"),
            ("multiplier_8", [8, 56, 56, 16], dict(multiplier=8), "native native native", "island island native"),
            (
                "many_repeated_5x5",
                [8, 28, 28, 192],
                dict(multiplier=4, k=5),
                "native native native",
                "island native island",
            ),
            (
                "repeated_6x4",
                [8, 28, 28, 64],
                dict(multiplier=2, k=(6, 4)),
                "island island island",
                "island island island",
            ),
            ("repeated_5x5", [8, 28, 28, 192], dict(multiplier=2, k=5), "native native island", "island island island"),
            (
                "many_repeated_9x9",
                [8, 28, 28, 64],
                dict(multiplier=4, k=9),
                "native native native",
                "island island island",
            ),
            (
                "repeated_9x9_strided",
                [8, 28, 28, 64],
                dict(multiplier=2, k=9, stride=2),
                "island native island",
                "native island island",
            ),
            (
                "many_repeated_9x9_strided",
                [8, 28, 28, 64],
                dict(multiplier=4, k=9, stride=2),
                "native native native",
                "native island island",
            ),
            (
                "many_repeated_7x7_strided",
                [8, 28, 28, 64],
                dict(multiplier=4, k=7, stride=2),
                "island island native",
                "native island island",
            ),
            (
                "repeated_strided",
                [8, 56, 56, 64],
                dict(multiplier=2, stride=2),
                "island island island",
                "native island native",
            ),
            (
                "repeated_nchw",
                [8, 64, 56, 56],
                dict(multiplier=2, format="NCHW"),
                "island island island",
                "island island island",
            ),
            (
                "repeated_5x5_nchw",
                [8, 192, 28, 28],
                dict(multiplier=4, k=5, format="NCHW"),
                "island island island",
                "island island island",
            ),
            (
                "repeated_7x7_nchw",
                [8, 192, 28, 28],
                dict(multiplier=4, k=7, format="NCHW"),
                "native native island",
                "island island island",
            ),
            (
                "strided_nchw",
                [8, 128, 56, 56],
                dict(stride=2, format="NCHW"),
                "island island island",
                "island island island",
            ),
            (
                "strided_5x5_nchw",
                [8, 128, 56, 56],
                dict(k=5, stride=2, format="NCHW"),
                "native native island",
                "island island island",
            ),
            ("half", [8, 28, 28, 192], dict(k=5, dtype="bfloat16"), "native native island", "island island island"),
            ("compiled", [8, 28, 28, 192], dict(compiled=True), "taps taps taps", "taps taps taps"),
            ("small", [1, 9, 9, 8], dict(k=5, rate=2), "native native native", "native native native"),
            ("of_any_batch", [None, 28, 28, 192], dict(k=5), "native native native", "native native native"),
        ]
    )
    @unittest.skipIf(tf.config.list_physical_devices("GPU"), "with a GPU, no islands")
    def test_islands(self, _, shape, case, with_onednn, without):
        case = dict(k=3, rate=1, stride=1, dtype="float32", compiled=False, format="NHWC", multiplier=1) | case
        channels = shape[1] if case["format"] == "NCHW" else shape[3]
        w = tf.ones([*np.broadcast_to(case["k"], 2), channels, case["multiplier"]], case["dtype"])
        stride = np.broadcast_to(case["stride"], 2)
        strides = [1, 1, *stride] if case["format"] == "NCHW" else [1, *stride, 1]
        found = []
        signature = [tf.TensorSpec(shape, case["dtype"])]

        @tf.function(autograph=False, jit_compile=case["compiled"], input_signature=signature)
        def ask(x):
            found.append(explain(x, w, strides, "SAME", case["format"], case["rate"]))
            return x

        ask.get_concrete_function()
        (said,) = found
        expected = with_onednn if onednn_runs_grouped_convolutions() else without
        self.assertEqual(
            " ".join([said.output.lowering, said.input_grad.lowering, said.filter_grad.lowering]), expected
        )

    @parameterized.expand([(False,), (True,)])
    @unittest.skipIf(tf.config.list_physical_devices("GPU"), "with a GPU, no islands")
    def test_without_islands(self, without):
        x, w = tf.ones([8, 128, 56, 56]), tf.ones([3, 3, 128, 1])

        @tf.function(autograph=False)
        def step(dy):
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                with without_islands() if without else contextlib.nullcontext():
                    y = depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME", "NCHW")
            return y, *tape.gradient(y, [x, w], dy)

        operations = step.get_concrete_function(tf.TensorSpec(x.shape)).graph.get_operations()
        self.assertEqual("PartitionedCall" in {operation.type for operation in operations}, not without)

    @unittest.skipIf(tf.config.list_physical_devices("GPU"), "with a GPU, no islands")
    def test_no_islands_where_numerics_are_checked(self):
        """What is added to every op then is nothing that XLA knows."""
        x, w = tf.ones([8, 128, 56, 56]), tf.ones([3, 3, 128, 1])
        tf.debugging.enable_check_numerics()
        try:
            y = tf.function(lambda: depthwise_conv2d(x, w, [1] * 4, "SAME", "NCHW"), autograph=False)()
        finally:
            tf.debugging.disable_check_numerics()
        self.assertEqual(y[0, 0, 1, 1], 9)

    def test_no_islands_in_eager_code(self):
        said = explain(tf.ones([8, 28, 28, 192]), tf.ones([5, 5, 192, 1]), **ARGUMENTS)
        self.assertEqual(said.filter_grad.lowering, "native")

    def test_native_is_refused_where_xla_spreads_nan(self):
        x, w = (tf.ones(shape, tf.float64) for shape in SHAPES)
        with self.assertRaisesRegex(NotImplementedError, "XLA convolves float64"):
            traced(lambda: explain(x, w, **ARGUMENTS, lowering="native"), jit_compile=True)

    def test_nothing_is_added_to_a_graph(self):
        with tf.Graph().as_default() as graph:
            x, w = (tf.compat.v1.placeholder(tf.float32) for _ in range(2))
            explain(x, w, **ARGUMENTS)
        self.assertEqual({operation.type for operation in graph.get_operations()}, {"Placeholder"})

    def test_printed(self):
        text = str(explain(*map(tf.ones, SHAPES), **ARGUMENTS))
        self.assertRegex(text, r"(?s)output +native .+\ninput_grad +native .+\nfilter_grad +native ")

    def test_an_impossible_lowering_says_why(self):
        x, w = (tf.ones(shape, tf.int32) for shape in SHAPES)
        for call in (depthwise_conv2d, explain):
            message = "`lowering` must .* output here, but got 'native', which cannot: .*int32. 'auto' takes"
            with self.assertRaisesRegex(NotImplementedError, message):
                call(x, w, **ARGUMENTS, lowering="native")


class AgreementTest(unittest.TestCase):
    """`explain` says what the graph and XLA's code show."""

    @parameterized.expand(itertools.product(("auto", *LOWERINGS), (False, True)))
    def test_graph_and_hlo(self, lowering, compiled):
        said = []

        @tf.function(autograph=False, jit_compile=compiled)
        def step(x, w, dy):
            said.append(explain(x, w, **ARGUMENTS, lowering=lowering))
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = depthwise_conv2d(x, w, **ARGUMENTS, lowering=lowering)
            return y, *tape.gradient(y, [x, w], dy)

        x, w = map(tf.ones, SHAPES)
        concrete = step.get_concrete_function(x, w, x)
        told = {said[0].output.lowering, said[0].input_grad.lowering, said[0].filter_grad.lowering}
        graph = concrete.graph.as_graph_def()
        nodes = {n.op for n in [*graph.node, *(n for f in graph.library.function for n in f.node_def)]}
        kernels = {op for op in nodes if op.startswith(("DepthwiseConv2dNative", "Conv2D"))}
        if compiled:
            hlo = step.experimental_get_compiler_ir(x, w, x)(stage="optimized_hlo")
            self.assertEqual("convolution(" in hlo or "__onednn" in hlo, told == {"native"}, told)
        if told <= {"taps", "island"}:
            self.assertEqual(kernels, set())
        else:
            self.assertEqual(len(kernels), 3)
            self.assertEqual("DeviceIndex" in nodes, told == {"portable"})
        functions = [f for f in graph.library.function if f.attr["_XlaMustCompile"].b]
        self.assertEqual(len(functions), 3 if told == {"island"} else 0)


class RefusedTest(unittest.TestCase):
    @parameterized.expand([(64, True), (65, False)])
    def test_without_a_stride_there_may_be_4096_phases(self, rate, taken):
        x, w = tf.zeros([1, 40, 40, 2], tf.float64), tf.zeros([3, 3, 2, 1], tf.float64)
        found = explain(x, w, [1, 1, 1, 1], "SAME", dilations=[64, rate])
        self.assertEqual(found.output.lowering, "native" if taken else "taps")

    def test_auto_takes_what_native_refuses(self):
        # 34 * 19 phases in float64, which has no grouped kernel: more than native writes out.
        x, w = tf.zeros([1, 40, 40, 2], tf.float64), tf.zeros([2, 2, 2, 1], tf.float64)
        arguments = dict(strides=[1, 1, 2, 1], padding="SAME", dilations=[17, 19])
        with self.assertRaises(NotImplementedError):
            explain(x, w, **arguments, lowering="native")
        self.assertEqual(explain(x, w, **arguments).output.lowering, "taps")
