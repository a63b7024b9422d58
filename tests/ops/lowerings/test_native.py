"""TensorFlow's kernels where they err or abort by themselves, and what TensorFlow does around them."""

import contextlib
import itertools
import os
import subprocess
import sys
import textwrap
import unittest
from unittest import mock

import tensorflow as tf
from depthwise.ops import depthwise_conv2d, explain, without_islands
from depthwise.ops.lowerings import BY_NAME
from depthwise.ops.lowerings.native import kernels, repeats
from depthwise.ops.lowerings.native.kernels import onednn_runs_grouped_convolutions
from depthwise.ops.spec import canonicalize
from parameterized import parameterized
from results import check
from tensorflow.python.framework import op_callbacks
from tensorflow.python.ops import gen_array_ops, gen_math_ops, gen_nn_ops

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


def recorded(run, named=("Conv2D", "DepthwiseConv2d")):
    """(name, attributes, outputs) of the ops with such names that `run` calls or traces."""
    ran = []

    def record(op, inputs, attributes, outputs, *_, **__):
        if op.startswith(named):
            ran.append((op, attributes, outputs))

    op_callbacks.add_op_callback(record)
    try:
        run()
    finally:
        op_callbacks.remove_op_callback(record)
    return ran


class ValueTest(unittest.TestCase):
    @parameterized.expand(
        itertools.product(
            (
                "in=2x4x1x1 filter=1x2x2 strides=1x2",  # one channel, one column: oneDNN's Conv2D errs, in silence
                "in=1x19x18x2 filter=5x4x1 dilations=4x3",  # more padding than oneDNN's fast kernels take
                "in=1x9x8x3 filter=3x2x1 strides=1x2 dilations=4x7 padding=8,0,1,9",
                "in=2x7x9x3 filter=3x5x2 dilations=8x4 data=special",  # mostly padding; combs longer than the image
                "in=1x9x8x2 filter=3x2x1 dilations=7x1",
                "in=1x20x33x2 filter=3x3x1 dilations=18x18 format=NCHW",
                "in=3x2x5x3 filter=3x4x2 strides=2x2 data=special",  # a filter higher than the image
            ),
            ("eager", "graph", "unknown"),
        )
    )
    def test_where_onednn_needs_help(self, notation, mode):
        check(self, notation, "native", mode)


class OneChannelTest(unittest.TestCase):
    @parameterized.expand(
        itertools.product(
            (
                "in=2x28x28x1 filter=1x1x1 strides=1x2 padding=VALID",
                "in=2x28x28x1 filter=1x1x2 strides=3x2",
                "in=2x28x28x1 filter=1x1x1 strides=1x2 padding=1,2,3,0",
            ),
            ("eager", "graph", "unknown"),
        )
    )
    def test_unequal_strides_are_kept_from_the_kernels(self, notation, mode):
        """oneDNN's filter gradients of 1x1 write beyond their memory. That ends a process at some time or other."""
        self.assert_strides_are_equal(lambda: check(self, notation, "native", mode))

    def test_unequal_strides_are_kept_from_the_kernels_where_channels_are_unknown(self):
        @tf.function(input_signature=[tf.TensorSpec([None] * 4)] * 2)
        def gradients(x, w):
            with tf.GradientTape() as tape:
                tape.watch((x, w))
                y = depthwise_conv2d(x, w, [1, 1, 2, 1], "SAME", lowering="native")
            return tape.gradient(y, (x, w))

        self.assert_strides_are_equal(gradients.get_concrete_function)

    def assert_strides_are_equal(self, run):
        values = [attributes[attributes.index("strides") + 1] for _, attributes, _ in recorded(run)]
        strides = [value if isinstance(value, list) else value.list.i for value in values]  # eager; traced
        self.assertGreaterEqual(len(strides), 3)
        self.assertEqual([(rows, cols) for _, rows, cols, _ in strides if rows != cols], [])


class BuildTest(unittest.TestCase):
    def test_the_build_is_told_in_the_middle_of_a_graph_too(self):
        known = onednn_runs_grouped_convolutions()
        with tf.Graph().as_default():
            self.assertEqual(onednn_runs_grouped_convolutions.__wrapped__(), known)


class GrapplerTest(unittest.TestCase):
    def test_explicit_padding_survives_the_fusion_with_bias_and_activation(self):
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
        run = subprocess.run([sys.executable, "-c", PREDICT], capture_output=True, text=True, env=environment)
        self.assertEqual(run.returncode, 0, run.stderr[-2000:])


class PaddingTest(unittest.TestCase):
    def test_a_huge_padding_is_not_made_for_a_gradient(self):
        """The padded image would have 2**33 elements; one window of it meets the image."""
        pad = 2**15
        case = f"in=1x2x2x2 filter=3x3x1 strides={pad}x{pad} padding={pad},{pad},{pad},{pad}"
        check(self, case, "auto", "eager")

    def test_what_stands_further_apart_than_the_image_is_large_is_not_laid_out(self):
        """It took 23 s for this image of one sample."""
        x, w = tf.ones([2, 1, 1, 1]), tf.ones([1, 2, 1, 1])
        with self.assertRaisesRegex(NotImplementedError, "stand further apart"):
            depthwise_conv2d(x, w, [1, 3000, 2, 1], "SAME", dilations=[3000, 100], lowering="native")

    @unittest.skipUnless(onednn_runs_grouped_convolutions(), "without oneDNN, every dilated convolution is in phases")
    def test_an_output_that_would_be_too_many_phases_is_padded(self):
        x, w = tf.ones([1, 40, 40, 1]), tf.ones([3, 3, 1, 1])
        self.assertEqual(explain(x, w, [1, 1, 1, 1], "SAME", dilations=65).output.lowering, "native")

    @parameterized.expand([(2, []), (6, ["Pad"]), (9, ["SpaceToBatchND"])])
    @unittest.skipUnless(onednn_runs_grouped_convolutions(), "without oneDNN, every dilated convolution is in phases")
    def test_what_is_padded_too_far_is_taken_apart(self, rate, moves):
        """With rate 6 the padded image is 1.96 times as large as the image, with rate 9 2.56 times."""
        x, w = tf.TensorSpec([2, 30, 30, 4]), tf.TensorSpec([3, 3, 4, 1])

        def dilated(x, w):
            return depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME", dilations=rate, lowering="native")

        graph = tf.function(dilated, autograph=False).get_concrete_function(x, w).graph
        found = [op.type for op in graph.get_operations() if op.type in ("Pad", "SpaceToBatchND")]
        self.assertEqual(found, moves)

    @parameterized.expand(
        [
            ((4, 2, 5, 3), 3, "float32", 1),
            ((4, 3, 2, 3), 3, "float32", 0),
            ((4, 2, 5, 3), 3, "float64", 0),
            ((1, 10, 9, 3), 11, "float32", 1),
            ((1, 11, 9, 3), 12, "float32", 0),
        ]
    )
    @unittest.skipUnless(onednn_runs_grouped_convolutions(), "TensorFlow's kernels without oneDNN are fast at it")
    def test_a_filter_gradient_is_padded_where_the_filter_is_higher_than_the_image(self, shape, kernel, dtype, pads):
        def filter_grad(x, w):
            spec = canonicalize(x, w, [1, 1, 1, 1], "SAME", None, None)[0]
            return BY_NAME["native"].filter_grad(spec, x, x, tf.shape(w))

        x, w = tf.TensorSpec(shape, dtype), tf.TensorSpec([kernel, kernel, shape[3], 1], dtype)
        graph = tf.function(filter_grad, autograph=False).get_concrete_function(x, w).graph
        self.assertEqual(sum(op.type == "Pad" for op in graph.get_operations()), pads)

    def test_gradients_are_padded_phase_by_phase(self):
        """The zeros around an image, here eight times as many as its samples, never reach the kernels."""
        native = BY_NAME["native"]

        @tf.function(autograph=False)
        def gradients(x, w):
            spec = canonicalize(x, w, [1, 1, 1, 1], "SAME", None, 12)[0]
            return native.input_grad(spec, w, x, tf.shape(x)), native.filter_grad(spec, x, x, tf.shape(w))

        graph = gradients.get_concrete_function(tf.zeros([2, 12, 12, 4]), tf.zeros([3, 3, 4, 1])).graph
        combs = [tuple(op.outputs[0].shape) for op in graph.get_operations() if op.type == "SpaceToBatchND"]
        self.assertEqual(combs, [(2 * 12 * 12, 1, 1, 4)] * 3)


class EagerTest(unittest.TestCase):
    CASES = (
        "in=2x9x8x3 filter=3x2x1",
        "in=2x9x8x3 filter=3x2x1 format=NCHW",
        "in=2x9x8x3 filter=3x3x1 dilations=2x1 padding=1,2,3,0",
        "in=2x9x8x3 filter=3x2x1 strides=2x2 dilations=1x2",
        "in=2x9x8x3 filter=3x2x1 strides=1x2 padding=1,2,3,0",
        "in=2x30x28x40 filter=5x5x2",  # large enough to be repeated
        "in=2x30x28x40 filter=3x3x2",  # for the filter gradient too
        "in=2x30x28x40 filter=3x2x1",  # too large to be summed in float64
    )

    @parameterized.expand(CASES)
    def test_no_op_is_left_to_convert_arguments(self, notation):
        """Lists to tensors, names to dtypes: it does that on a slow path, which takes longer than the op."""
        slow = []

        def recording(function):
            def recorded(*args, **kwargs):
                slow.append(function.__name__)
                return function(*args, **kwargs)

            return recorded

        with contextlib.ExitStack() as patches:
            for module in (gen_array_ops, gen_math_ops, gen_nn_ops):
                for name in filter(lambda name: name.endswith("_eager_fallback"), dir(module)):
                    patches.enter_context(mock.patch.object(module, name, recording(getattr(module, name))))
            tf.raw_ops.Reverse(tensor=[1], dims=[True])
            self.assertEqual(slow, ["reverse_eager_fallback"])
            check(self, notation, "native", "eager")
        self.assertEqual(slow[1:], [])

    @parameterized.expand(
        [
            ("eager", "in=2x9x8x3 filter=3x2x1 strides=1x2", ["DepthwiseConv2dNative"] * 3),
            ("graph", "in=2x9x8x3 filter=3x2x1 strides=1x2", ["Conv2D"] * 3),
            (
                "eager",
                "in=2x9x8x3 filter=3x2x1 strides=1x2 padding=1,2,3,0",
                ["DepthwiseConv2dNative"] + ["Conv2D"] * 2,
            ),
            ("eager", "in=2x9x8x1 filter=3x2x1 strides=2x1 padding=VALID", ["DepthwiseConv2dNative"] * 3),
            ("eager", "in=2x9x8x3 filter=3x2x1 strides=1x2 dilations=2x2", ["Conv2D"] + ["DepthwiseConv2dNative"] * 2),
            ("eager", "in=2x9x8x3 filter=3x2x1 strides=1x2 dtype=float64", ["DepthwiseConv2dNative"] * 3),
        ]
    )
    @unittest.skipUnless(onednn_runs_grouped_convolutions(), "without oneDNN, phases compute all of them")
    def test_which_kernels_compute_unequal_strides(self, mode, notation, expected):
        """Output, input gradient, filter gradient; a call of Conv2D takes longer in eager code."""
        kernels = [name for name, _ in self.kernels_of(notation, mode)]
        backward = ["", "BackpropInput", "BackpropFilter"]
        self.assertEqual(kernels, [kernel + suffix for kernel, suffix in zip(expected, backward, strict=True)])

    @parameterized.expand(
        [
            ("eager", "in=1x14x14x32 filter=3x3x1", "yyy"),
            ("eager", "in=1x32x14x14 filter=3x3x1 format=NCHW dtype=bfloat16", "yyy"),
            ("eager", "in=1x14x14x40 filter=3x3x1", "nny"),  # too many products
            ("eager", "in=1x14x14x36 filter=3x3x2", "nny"),
            ("eager", "in=1x14x14x80 filter=3x3x1", "nnn"),  # for filter gradients too
            ("eager", "in=1x64x64x3 filter=3x3x1", "nnn"),  # as many products as for 8 channels
            ("eager", "in=1x9x9x64 filter=9x9x1 padding=VALID", "yny"),  # products per sample of input
            ("eager", "in=1x64x32x8 filter=1x1x1 strides=4x4", "yyy"),
            ("eager", "in=1x64x33x8 filter=1x1x1 strides=4x4", "nnn"),  # too many elements: of the input,
            ("eager", "in=1x32x32x8 filter=1x1x3", "nnn"),  # the output,
            ("eager", "in=1x1x1x64 filter=16x17x1", "nnn"),  # and the filter
            ("eager", "in=1x9x8x3 filter=3x2x1 strides=1x2", "nnn"),
            ("eager", "in=1x9x8x3 filter=3x2x1 dilations=2x2", "nyy"),
            ("eager", "in=1x9x8x3 filter=3x2x1 strides=1x2 dilations=2x2", "nyy"),
            ("eager", "in=1x9x8x3 filter=3x2x1 padding=1,2,3,0", "ynn"),  # in which oneDNN has no part
            ("eager", "in=1x9x8x3 filter=3x2x1 padding=1,2,3,0 dilations=2x2", "nyy"),
            ("eager", "in=1x9x8x3 filter=3x2x1 padding=1,2,3,0 format=NCHW", "yyy"),
            ("graph", "in=1x9x8x3 filter=3x2x1", "nnn"),
        ]
    )
    def test_which_kernels_sum_in_float64(self, mode, notation, expected):
        """Output, input gradient, filter gradient; with oneDNN."""
        found = [dtype for _, dtype in self.kernels_of(notation, mode)]
        wide = expected if onednn_runs_grouped_convolutions() else "nnn"
        self.assertEqual(found, [{"y": "float64", "n": "float32"}[letter] for letter in wide])

    @unittest.skipUnless(onednn_runs_grouped_convolutions(), "without oneDNN, no thread is woken")
    def test_small_images_are_transposed_in_float64_too(self):
        ran = self.kernels_of("in=1x8x8x8 filter=3x3x1 format=NCHW", "eager", ("Transpose",))
        self.assertEqual(ran, [("Transpose", "float64")] * 6)

    def test_another_dtype_of_the_output_gradient_is_refused(self):
        """A cast would take it, and drop what is imaginary."""
        x, w = tf.ones([1, 8, 8, 3]), tf.ones([3, 3, 3, 1])
        for dtype in ("complex64", "float64", "int32"):
            with tf.GradientTape() as tape:
                tape.watch(w)
                y = depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")
            with self.assertRaises(tf.errors.InvalidArgumentError):
                tape.gradient(y, w, tf.cast(y, dtype))

    def test_no_op_asks_for_sizes(self):
        self.assertEqual(self.kernels_of("in=2x9x8x3 filter=3x2x1 format=NCHW", "eager", ("Shape",)), [])

    def kernels_of(self, notation, mode, *named):
        """(name, dtype) of the kernels of a case, which is checked."""
        ran = recorded(lambda: check(self, notation, "native", mode), *named)
        return [(op, outputs[0].dtype.name) for op, _, outputs in ran]


class TransposedTest(unittest.TestCase):
    @parameterized.expand(
        itertools.product(
            (
                "in=2x9x8x3 filter=4x3x1 dilations=2x1",  # an even filter pads one side more, its transpose the other
                "in=2x9x11x3 filter=3x2x1 padding=VALID dilations=1x2 data=special",
                "in=1x8x9x2 filter=3x4x1 padding=4,0,1,3 dilations=2x1 format=NCHW",
                "in=1x5x6x2 filter=2x3x1 padding=3,0,1,1 dilations=2x1",  # a side is padded further than a window goes
                "in=2x9x8x3 filter=5x4x1 data=special",
                "in=2x7x9x1 filter=3x5x1 padding=1,1,2,2 dtype=bfloat16",
            ),
            ("eager", "graph", "unknown"),
        )
    )
    def test_input_gradients(self, notation, mode):
        check(self, notation, "native", mode)

    @parameterized.expand(
        [
            ("dilated", dict(shape=(2, 19, 19, 3), k=3, rate=2), True),
            ("dilated_valid", dict(shape=(2, 39, 39, 3), k=3, rate=2, padding="VALID"), True),
            ("dilated_far", dict(shape=(2, 9, 9, 3), k=3, rate=4), False),
            ("dilated_of_any_size", dict(shape=(None, None, None, 3), k=3, rate=5), True),
            ("dilated_far_of_any_size", dict(shape=(None, None, None, 3), k=3, rate=6), False),
            ("3x3", dict(shape=(2, 9, 9, 3), k=3), False),
            ("4x4", dict(shape=(None, 9, 9, 3), k=4), False),
            ("5x5", dict(shape=(None, None, 9, 3), k=5), True),
            ("5x5_valid", dict(shape=(2, 9, 9, 3), k=5, padding="VALID"), False),
            ("5x5_strided", dict(shape=(2, 9, 9, 3), k=5, stride=2), False),
            ("5x5_repeated", dict(shape=(2, 9, 9, 3), k=5, multiplier=2), False),
            ("13x13", dict(shape=(2, 9, 9, 3), k=13), False),
            ("15x15", dict(shape=(2, 9, 9, 3), k=15), True),
        ]
    )
    @unittest.skipUnless(onednn_runs_grouped_convolutions(), "without oneDNN none is faster")
    def test_those_that_are_faster_are_outputs(self, _, case, is_output):
        case = dict(rate=1, stride=1, padding="SAME", multiplier=1) | case
        w = tf.TensorSpec([case["k"], case["k"], 3, case["multiplier"]])
        dy = tf.TensorSpec([*case["shape"][:3], 3 * case["multiplier"]])

        def input_grad(x, w, dy):
            spec = canonicalize(x, w, [1, case["stride"], case["stride"], 1], case["padding"], None, case["rate"])[0]
            return BY_NAME["native"].input_grad(spec, w, dy, tf.shape(x))

        graph = (
            tf.function(input_grad, autograph=False).get_concrete_function(tf.TensorSpec(case["shape"]), w, dy).graph
        )
        found = set(_types(graph))
        self.assertEqual("DepthwiseConv2dNative" in found, is_output)
        self.assertEqual("DepthwiseConv2dNativeBackpropInput" in found, not is_output)


@unittest.skipUnless(onednn_runs_grouped_convolutions(), "TensorFlow's kernels without oneDNN are fast at it")
class WideFilterTest(unittest.TestCase):
    @parameterized.expand(
        itertools.product(
            (
                "in=2x9x8x32 filter=5x4x1",
                "in=3x9x11x33 filter=3x7x1 padding=VALID",
                "in=1x8x9x32 filter=4x10x1 padding=2,0,7,1 format=NCHW",
                "in=2x7x9x34 filter=7x5x1 data=special",
                "in=2x9x8x33 filter=2x6x1 dilations=2x3",
                "in=2x3x5x32 filter=4x5x1 dtype=bfloat16",
            ),
            ("eager", "graph", "unknown"),
        )
    )
    def test_gradients_in_parts(self, notation, mode):
        check(self, notation, "native", mode)

    @parameterized.expand(
        [
            ("narrow", (4, 9, 9, 32), (5, 3, 32, 1), 1, 1),
            ("wide", (4, 9, 9, 32), (1, 4, 32, 1), 1, 2),
            ("wider", (None, 9, None, 32), (5, 7, 32, 1), 1, 3),
            ("of_few_channels", (4, 9, 9, 31), (1, 4, 31, 1), 1, 1),
            ("of_any_height", (4, None, 9, 32), (8, 5, 32, 1), 1, 1),
            ("strided", (4, 9, 9, 32), (5, 5, 32, 1), 2, 1),
            ("repeated", (4, 9, 9, 32), (5, 5, 32, 2), 1, 1),
        ]
    )
    def test_as_many_parts_as_pay(self, _, shape, filter_shape, stride, parts):
        def filter_grad(x, w, dy):
            spec = canonicalize(x, w, [1, stride, stride, 1], "SAME", None, None)[0]
            return BY_NAME["native"].filter_grad(spec, x, dy, tf.shape(w))

        images = [tf.TensorSpec([*shape[:3], channels]) for channels in (shape[3], shape[3] * filter_shape[3])]
        traced = tf.function(filter_grad, autograph=False)
        graph = traced.get_concrete_function(images[0], tf.TensorSpec(filter_shape), images[1]).graph
        self.assertEqual(_types(graph).count("DepthwiseConv2dNativeBackpropFilter"), parts)

    def test_eager_calls_share_a_function_whatever_the_images(self):
        def traced(*shape):
            x, w = tf.zeros(shape), tf.zeros([2, 5, 48, 1])
            spec = canonicalize(x, w, [1, 1, 1, 1], "SAME", None, None)[0]
            BY_NAME["native"].filter_grad(spec, x, x, tf.shape(w))
            return kernels._in_one_call.cache_info().misses

        before = kernels._in_one_call.cache_info().misses
        # (Of small images there is none: they are computed in float64.)
        self.assertEqual([traced(4, 28, 28, 48), traced(2, 30, 40, 48)], [before + 1] * 2)


@unittest.skipUnless(onednn_runs_grouped_convolutions(), "TensorFlow's kernels without oneDNN are fast at it")
class SeveralOutputsTest(unittest.TestCase):
    def setUp(self):
        changed = mock.patch.object(repeats, "LEAST_ELEMENTS", 2 * 16 * 16 * 2 * 2)
        for clean in (changed.stop, repeats.repeated.cache_clear):
            self.addCleanup(clean)
        changed.start()
        repeats.repeated.cache_clear()

    @parameterized.expand(
        itertools.product(
            (
                "in=8x19x18x2 filter=4x3x2",
                "in=2x2x5x99 filter=3x2x2 data=special",
                "in=8x17x9x3 filter=3x5x3 data=special",
                "in=9x18x19x2 filter=3x2x2 padding=4,0,1,3 dilations=2x1 format=NCHW",
                "in=8x19x8x3 filter=3x3x2 strides=2x2 data=special",
                "in=5x19x18x3 filter=3x2x2 strides=1x2 dilations=4x7",
                "in=3x19x17x4 filter=2x4x2 strides=3x3",
                "in=9x17x9x1 filter=2x5x6 padding=VALID dtype=bfloat16",
            ),
            ("eager", "graph", "unknown", "xla", "unknown_xla"),
        )
    )
    def test_values(self, notation, mode):
        check(self, notation, "native", mode)

    @parameterized.expand(
        [
            # whether output, input gradient and filter gradient are of repeated channels
            ("repeated", (2, 16, 16, 2), (3, 3, 2, 2), {}, (True, True, True)),
            ("of_any_size", (None, None, 16, 2), (3, 3, 2, 2), {}, (True, True, True)),
            ("of_any_channels", (2, 16, 16, None), (3, 3, None, 2), {}, (True, True, True)),
            ("too_small", (2, 16, 15, 2), (3, 3, 2, 2), {}, (False, False, False)),
            ("single", (2, 16, 64, 2), (3, 3, 2, 1), {}, (False, False, False)),
            ("of_any_multiplier", (2, 16, 64, 2), (3, 3, 2, None), {}, (False, False, False)),
            ("of_any_filter", (2, 16, 64, 2), (None, 3, 2, 2), {}, (False, False, False)),
            ("strided", (2, 16, 64, 2), (3, 3, 2, 2), dict(stride=2), (False, False, False)),
            ("strided_of_more_taps", (2, 16, 64, 2), (3, 4, 2, 2), dict(stride=2), (False, True, False)),
            ("strided_by_four", (2, 16, 64, 2), (4, 4, 2, 2), dict(stride=4), (False, False, False)),
            ("strided_uncommonly", (2, 18, 64, 2), (2, 5, 2, 2), dict(stride=3), (False, True, False)),
            ("strided_uncommonly_and_wide", (2, 18, 64, 2), (2, 4, 2, 2), dict(stride=3), (False, True, False)),
            ("strided_uncommonly_but_small", (2, 18, 64, 2), (3, 3, 2, 2), dict(stride=3), (False, False, False)),
            ("strided_uncommonly_and_high", (2, 18, 64, 2), (4, 3, 2, 2), dict(stride=3), (False, True, False)),
            ("apart", (2, 16, 64, 2), (1, 2, 2, 2), {}, (True, False, True)),
            ("shrunk", (2, 16, 64, 2), (13, 1, 2, 2), dict(padding="VALID"), (True, True, True)),
            ("shrunk_too_far", (2, 17, 64, 2), (14, 1, 2, 2), dict(padding="VALID"), (False, False, False)),
            ("shrunk_by_strides", (2, 16, 64, 2), (6, 8, 2, 2), dict(stride=4), (False, True, False)),
            ("dilated", (2, 16, 64, 2), (3, 3, 2, 2), dict(rate=2), (True, True, False)),
            ("wide", (2, 16, 64, 2), (3, 4, 2, 2), {}, (True, True, False)),
            ("high", (2, 16, 64, 2), (7, 3, 2, 3), {}, (True, True, True)),
            ("four", (2, 16, 16, 2), (3, 3, 2, 4), {}, (True, True, False)),
            ("five", (2, 16, 16, 2), (3, 3, 2, 5), {}, (False, True, False)),
            ("five_of_more_taps", (2, 16, 16, 2), (2, 5, 2, 5), {}, (True, True, False)),
        ]
    )
    def test_where_channels_are_repeated(self, _, shape, filter_shape, case, expected):
        def are_repeated(compute):
            graph = tf.function(compute, autograph=False).get_concrete_function(x, w).graph
            return "MatMul" in _types(graph)

        def spec(x, w):
            stride, padding = case.get("stride", 1), case.get("padding", "SAME")
            return canonicalize(x, w, [1, stride, stride, 1], padding, None, case.get("rate"))[0]

        def output(x, w):
            return native.output(spec(x, w), x, w)

        def exported(x, w):
            with without_islands():
                return output(x, w)

        def portable(x, w):
            return BY_NAME["portable"].output(spec(x, w), x, w)

        def input_grad(x, w):
            return native.input_grad(spec(x, w), w, dy(x, w), tf.shape(x))

        def filter_grad(x, w):
            return native.filter_grad(spec(x, w), x, dy(x, w), tf.shape(w))

        def dy(x, w):
            return tf.ones([size or 16 for size in spec(x, w).output_shape])

        x, w, native = tf.TensorSpec(shape), tf.TensorSpec(filter_shape), BY_NAME["native"]
        self.assertEqual(tuple(map(are_repeated, (output, input_grad, filter_grad))), expected)
        self.assertFalse(are_repeated(exported))
        self.assertFalse(are_repeated(portable))


def _types(graph):
    """Of the operations in a graph and in its branches."""
    functions = graph.as_graph_def().library.function
    return [op.type for op in graph.get_operations()] + [node.op for f in functions for node in f.node_def]


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
