"""depthwise_conv2d as a whole: values and gradients in every mode and lowering, and where it can be called from."""

import gc
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import unittest
from unittest import mock

import numpy as np
import tensorflow as tf
from depthwise.conformance.case import parse
from depthwise.conformance.data import Problem
from depthwise.ops import LOWERINGS, depthwise_conv2d
from depthwise.ops.lowerings.taps import unpadded
from parameterized import parameterized
from results import ELEMENTARY, FIRST, MODES, check, compare, in_mode, results

# Each holds several things that the stock op does not do, or an edge of what it does.
GEOMETRIES = (
    "in=2x7x6x3 filter=3x3x1",
    "in=2x7x8x3 filter=3x2x2 strides=2x2 padding=VALID",
    "in=1x9x8x2 filter=2x3x1 strides=2x3 dilations=3x2",
    "in=2x6x7x2 filter=3x3x2 dilations=2x1 padding=2,0,1,3 format=NCHW",
    "in=1x5x9x3 filter=1x4x1 strides=1x2 padding=0,5,7,1",
    "in=2x3x2x2 filter=5x4x1 strides=2x2",
)
EMPTY = (
    "in=0x5x6x2 filter=3x3x2 strides=2x2",
    "in=0x5x6x2 filter=3x3x1 strides=3x3 format=NCHW",
    "in=2x0x6x2 filter=3x3x1",
    "in=2x0x0x2 filter=2x3x1 strides=3x3",
    "in=2x5x6x0 filter=3x3x2 padding=VALID",
    "in=2x5x6x2 filter=3x3x0",
    "in=2x4x4x3 filter=5x5x2 padding=VALID",
    "in=2x5x2x2 filter=2x3x1 padding=VALID dilations=2x1",
    "in=2x0x2x2 filter=2x1x1 padding=2,1,0,0",
)
# Explicitly padded, where the kernels work on phases of an image: on some builds, or on all.
PADDED = (
    "in=1x8x8x4 filter=3x3x1 strides=1x2 padding=1,1,1,1",
    "in=1x8x8x1 filter=3x3x1 strides=1x2 padding=1,1,1,1",
    "in=2x8x7x2 filter=3x2x2 strides=2x2 dilations=2x2 padding=1,0,2,1 format=NCHW",
)
FLOATS = ("float16", "bfloat16", "float64")
COMPOSED = tuple(itertools.product(GEOMETRIES[1:2], ("portable", "island"), MODES))
FLOATS_IN_MODES = [
    (dtype, lowering, mode)
    for dtype, lowering, mode in itertools.product(("float32", *FLOATS), ELEMENTARY, ("eager", "graph", "xla"))
    if (dtype, lowering, mode) != ("float64", "native", "xla")  # refused
]
EXACT = ("int8", "int16", "int32", "int64", "uint8", "complex64", "complex128")


class ValueTest(unittest.TestCase):
    @parameterized.expand([*itertools.product(GEOMETRIES, ELEMENTARY, MODES[:4]), *COMPOSED])
    def test_values_and_gradients(self, notation, lowering, mode):
        check(self, notation, lowering, mode)

    @parameterized.expand(
        [
            *itertools.product(GEOMETRIES[1:5:2], ("taps",), ("unknown_xla", "unknown_filter", "unknown_filter_xla")),
            *itertools.product(GEOMETRIES[1:5:2], ("native",), ("unknown_filter",)),
            *itertools.product((*GEOMETRIES, *PADDED), ELEMENTARY, ("unknown_height",)),
        ]
    )
    def test_sizes_that_are_known_late(self, notation, lowering, mode):
        check(self, notation, lowering, mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x11x19x3 filter=3x4x1 data=special",  # more columns than terms of a sum, and no multiple of them
                "in=2x24x8x2 filter=4x3x2 strides=2x1 dilations=1x2 format=NCHW data=special",
                "in=1x6x33x2 filter=2x7x1 strides=3x2 padding=0,5,7,1 data=special",
                "in=2x12x17x2 filter=9x8x1 strides=1x2 data=special",  # too large to write out
                "in=3x9x1x4 filter=1x3x2 data=special",  # what is not finite lies beside the padding
                "in=2x4x4x3 filter=3x5x1 padding=VALID data=special",  # no output
            ),
            ("unknown", "unknown_xla"),
        )
    )
    def test_sizes_of_images_that_are_known_late(self, notation, mode):
        check(self, notation, "taps", mode)

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

    @parameterized.expand(
        itertools.product(
            (
                "in=2x5x4x2 filter=3x2x1 strides=65x1 dilations=1073741823x3 data=special",
                "in=1x3x9x3 filter=2x3x2 strides=2147483647x2000 padding=1,0,0,2001 data=special",
                "in=2x4x9x2 filter=3x3x2 strides=100x1 dilations=70x2 padding=140,75,1,1 format=NCHW data=special",
                "in=2x5x6x3 filter=2x3x2 dilations=3000x5000 padding=0,3000,5000,5000 dtype=bfloat16",
                "in=2x9x8x1 filter=2x2x3 dilations=1000x1",  # taps beside the image on either side, none on it
                "in=1x9x8x2 filter=2x3x2 strides=2x3 dilations=70x1 padding=70,70,1,1 data=special",
                "in=1x9x8x2 filter=9x8x1 strides=1x66 dilations=66x1 padding=280,280,0,0",  # 72 taps
            ),
            ("auto", "taps"),
            ("eager", "graph", "xla"),
        )
    )
    def test_what_stands_further_apart_than_the_image_is_large(self, notation, lowering, mode):
        check(self, notation, lowering, mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x12x11x3 filter=9x8x1 data=special",
                "in=1x12x17x2 filter=11x13x2 strides=2x1 dilations=1x2",
                "in=2x9x8x3 filter=13x7x1 strides=1x2 dilations=3x1 data=special",
                "in=1x30x9x2 filter=9x9x1 strides=3x3 padding=VALID format=NCHW",
                "in=1x6x6x2 filter=15x9x1 padding=11,3,0,7 data=special",
                "in=2x7x40x2 filter=1x67x1",
                "in=2x25x5x2 filter=33x2x1 data=special",
                "in=1x9x8x2 filter=10x9x2 strides=1x2 format=NCHW data=special",
            ),
            ("xla", "unknown"),
        )
    )
    def test_filters_too_large_to_write_out(self, notation, mode):
        check(self, notation, "taps", mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x7x5x3 filter=13x9x1 data=special",  # just large enough
                "in=2x6x5x2 filter=13x10x2 format=NCHW data=special",
                "in=3x7x6x2 filter=17x19x1 strides=2x3 padding=7,6,8,9 data=special",
                "in=2x9x8x256 filter=17x16x1 dtype=float64",
                "in=0x4x5x2 filter=9x9x1",
                "in=2x7x5x2 filter=12x9x1",  # a row too few at the beginning
                "in=1x6x6x2 filter=11x11x1 padding=6,4,5,5 data=special",  # and at the end
            ),
            ("xla",),
        )
    )
    def test_filters_that_cover_the_image_from_everywhere(self, notation, mode):
        """With more places than are written out, and with fewer."""
        check(self, notation, "taps", mode)

    @parameterized.expand(
        [
            ("in=1x6x7x256 filter=5x4x1 data=special", "xla"),
            ("in=2x7x5x128 filter=5x5x2 strides=2x1 dilations=1x2 data=special", "graph"),
            ("in=1x6x5x64 filter=6x5x2 dtype=float64", "xla"),
            ("in=1x6x7x256 filter=9x9x1 data=special", "xla"),
            ("in=1x5x6x64 filter=7x11x2 strides=2x1 dtype=float64", "xla"),
            ("in=1x5x6x256 filter=5x5x1 dtype=int32", "eager"),
        ]
    )
    def test_columns_a_cache_line_apart(self, notation, mode):
        """Images whose columns lie a multiple of 1024 bytes apart, and filters that taps pad them for."""
        check(self, notation, "taps", mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x5x33x2 filter=3x3x2 format=NCHW data=special",
                "in=1x9x38x5 filter=3x4x1 strides=2x1 dilations=1x3 format=NCHW data=special",
                "in=3x4x32x3 filter=1x3x1 padding=0,0,2,0 format=NCHW data=special",
                "in=2x3x33x5 filter=2x2x1 dilations=7x1 format=NCHW dtype=float64",  # windows three planes high
                "in=1x3x33x3 filter=3x3x1 format=NCHW",  # a plane too few
                "in=2x9x11x4 filter=3x3x1 strides=2x2 padding=VALID format=NCHW data=special",
                "in=1x8x12x6 filter=4x5x1 strides=3x2 dilations=2x1 padding=3,0,1,5 format=NCHW data=special",
                "in=2x9x9x3 filter=5x3x1 strides=4x2 dilations=3x1 format=NCHW data=special",  # begins amid the phases
                "in=2x7x9x3 filter=2x7x1 strides=1x3 format=NCHW dtype=bfloat16",
            ),
            ("xla", "eager"),
        )
    )
    def test_planes_that_lie_end_to_end(self, notation, mode):
        """NCHW, wide or strided, but for one."""
        check(self, notation, "taps", mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=3x6x7x5 filter=5x5x1 data=special",
                "in=1x11x9x3 filter=4x6x1 data=special",
                "in=2x9x5x4 filter=6x3x1 padding=5,0,0,2 data=special",
                "in=2x9x5x3 filter=3x6x1 padding=0,2,5,0 dtype=float64",
                "in=4x12x6x2 filter=4x4x1 dilations=3x5 data=special",  # taps lie past the next row
                "in=1x7x8x3 filter=4x9x1",  # one row amid the padded ones
                "in=1x6x8x3 filter=4x9x1",  # none
                "in=1x5x8x3 filter=4x9x1",  # too few
                "in=2x6x6x3 filter=5x5x1 dtype=bfloat16",
            ),
            ("xla", "eager"),
        )
    )
    def test_rows_that_lie_end_to_end(self, notation, mode):
        """NHWC, of images that are taken to be large."""
        with mock.patch.multiple(unpadded, LEAST_BYTES=0, LEAST_BYTES_QUICKER=0):
            check(self, notation, "taps", mode)

    @parameterized.expand(
        [
            ("in=2x7x9x32 filter=3x3x1 format=NCHW", "xla"),
            ("in=2x7x9x32 filter=3x3x1 format=NCHW data=special", "xla"),
            ("in=3x6x5x24 filter=3x2x2 strides=2x1 format=NCHW dtype=float64", "unknown"),
            ("in=2x9x8x48 filter=10x7x1 dilations=1x2 format=NCHW data=special", "xla"),
        ]
    )
    def test_blocks_of_channels(self, notation, mode):
        """NCHW, and more channels than are transposed together."""
        check(self, notation, "taps", mode)

    @parameterized.expand(
        [
            ("in=2x7x6x3 filter=6x6x2 data=special", "xla"),
            ("in=1x8x9x2 filter=3x3x11 strides=2x1 format=NCHW data=special", "xla"),
            ("in=1x9x8x3 filter=5x7x2 strides=2x2 dilations=1x2 dtype=float64", "graph"),
            ("in=2x7x6x2 filter=9x9x3 format=NCHW data=special", "xla"),
            ("in=1x6x5x2 filter=4x5x4 dtype=complex64", "eager"),
        ]
    )
    def test_many_taps_for_an_input_gradient_to_sum(self, notation, mode):
        """Taps times outputs of a channel beyond what is summed without a stop in memory."""
        check(self, notation, "taps", mode)

    @parameterized.expand(
        [("taps", "xla"), ("auto", "xla"), ("portable", "graph"), ("native", "graph"), ("taps", "graph")]
    )
    def test_a_multiplier_that_is_known_late(self, lowering, mode):
        """Alone: images and the other sizes of the filter are known."""

        def of_any_multiplier(x, w, *arguments, **more):
            w = tf.raw_ops.PlaceholderWithDefault(input=w, shape=[*w.shape[:3], None])
            return depthwise_conv2d(x, w, *arguments, **more)

        for notation in ("in=2x7x6x3 filter=6x6x2", "in=2x7x6x3 filter=3x3x2 strides=2x1 format=NCHW"):
            check(self, notation, lowering, mode, of_any_multiplier)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x7x5x3 filter=13x9x2",  # covers the image
                "in=2x6x5x2 filter=13x10x1 format=NCHW",
                "in=2x12x11x3 filter=9x8x1 strides=2x1",
                "in=2x12x11x3 filter=5x6x1",
                "in=2x12x11x3 filter=3x3x2 strides=2x2 format=NCHW",
            ),
            ("xla", "graph"),
        )
    )
    def test_a_batch_that_is_known_late(self, notation, mode):
        """Alone: all other sizes are known."""

        def of_any_batch(x, *arguments, **more):
            x = tf.raw_ops.PlaceholderWithDefault(input=x, shape=[None, *x.shape[1:]])
            return depthwise_conv2d(x, *arguments, **more)

        check(self, notation, "taps", mode, of_any_batch)

    @parameterized.expand(itertools.product(EMPTY, ELEMENTARY, ("eager", "graph", "unknown", "xla")))
    def test_empty(self, notation, lowering, mode):
        check(self, notation, lowering, mode)

    @parameterized.expand(itertools.product(EMPTY[::3], ("taps", "auto")))
    def test_empty_with_unknown_dimensions_under_xla(self, notation, lowering):
        check(self, notation, lowering, "unknown_xla")

    @parameterized.expand(FLOATS_IN_MODES)
    def test_floating_dtypes(self, dtype, lowering, mode):
        check(self, f"in=2x6x5x3 filter=3x2x2 strides=2x1 dtype={dtype}", lowering, mode)

    @parameterized.expand(itertools.product(EXACT, ("eager", "graph", "unknown", "xla")))
    def test_integers_and_complex(self, dtype, mode):
        check(self, f"in=2x6x5x3 filter=3x2x2 strides=2x1 dtype={dtype} format=NCHW", "auto", mode)

    @parameterized.expand(itertools.product(("normal", "integer"), ("float16", "bfloat16")))
    def test_half_types_are_rounded_once(self, data, dtype):
        # With integer data every float32 sum is exact, so the result must be the oracle's value rounded: no tolerance.
        check(self, f"in=1x9x9x4 filter=7x7x1 dtype={dtype} data={data}", "native", "eager")
        check(self, f"in=1x9x9x4 filter=7x7x1 dtype={dtype} data={data}", "taps", "xla")

    @parameterized.expand(itertools.product(("float16", "bfloat16")))
    def test_half_types_are_at_least_as_exact_as_the_stock_op(self, dtype):
        """Root mean square errors, in units of that of one rounding: ours 1.00. The stock op's, 7x7: 1.0 with oneDNN,
        4.7 (outputs) and 9.2 (filter gradient) without."""
        problem = Problem(parse(f"in=2x14x14x32 filter=7x7x1 dtype={dtype}"))

        def stock(x, w, strides, padding, data_format, dilations, lowering):
            return tf.nn.depthwise_conv2d(x, w, strides, padding, data_format, dilations)

        ours, theirs = results(problem, "auto", "eager"), results(problem, None, "eager", stock)
        for name in FIRST:
            exact = problem.expected(name).values
            rounded, own, other = (
                np.sqrt(np.mean((np.asarray(tensor, np.float64) - exact) ** 2))
                for tensor in (tf.cast(exact, dtype), ours[name], theirs[name])
            )
            self.assertLess(own, 1.01 * rounded, name)
            self.assertLess(own, 1.01 * other, name)

    @parameterized.expand(itertools.product(LOWERINGS, MODES))
    def test_examples_of_tensorflow_documentation(self, lowering, mode):
        x = tf.reshape(tf.constant([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), [1, 3, 2, 1])
        w = tf.reshape(tf.constant([1.0, 2.0, 3.0, 4.0]), [2, 1, 1, 2])
        case = parse("in=1x3x2x1 filter=2x1x2")

        def op(padding):
            def run(x, w):
                return depthwise_conv2d(x, w, [1, 1, 1, 1], padding, lowering=lowering)

            return in_mode(run, mode, case, case.input_shape, case.filter_shape)(x, w).numpy()

        valid = [[[[10, 14], [14, 20]], [[18, 26], [22, 32]]]]
        np.testing.assert_array_equal(op("VALID"), valid)
        above = [[[[3, 4], [6, 8]], *valid[0]]]
        np.testing.assert_array_equal(op([[0, 0], [1, 0], [0, 0], [0, 0]]), above)
        documented = op([[0, 0], [1, 0], [1, 0], [0, 0]])
        self.assertEqual(documented.shape, (1, 3, 3, 2))
        np.testing.assert_array_equal(documented[0, -1], [[0, 0], [18, 26], [22, 32]])

    @parameterized.expand([row for row in FLOATS_IN_MODES if row[0] in ("float32", "float64") and row[2] != "graph"])
    def test_sums_that_are_exact_stay_exact(self, dtype, lowering, mode):
        check(self, f"in=2x14x11x3 filter=4x5x3 dilations=2x1 dtype={dtype} data=integer seed=437", lowering, mode)

    def test_a_planted_fault_is_seen(self):
        def shifted(x, w, *args, **kwargs):
            return depthwise_conv2d(x, tf.roll(w, 1, 0), *args, **kwargs)

        with self.assertRaises(AssertionError):
            check(self, GEOMETRIES[0], "native", "eager", shifted)

    @parameterized.expand(
        [
            *itertools.product(ELEMENTARY, ("eager", "unknown", "xla"), ("NHWC",)),
            *itertools.product(ELEMENTARY, ("xla",), ("NCHW",)),
        ]
    )
    def test_nan_and_infinity_reach_what_they_meet_and_nothing_else(self, lowering, mode, data_format):
        for geometry in ("filter=3x3x1", "filter=3x2x2 strides=2x1 dilations=1x2"):
            check(self, f"in=2x7x8x3 {geometry} format={data_format} data=special", lowering, mode)


class ArgumentTest(unittest.TestCase):
    def setUp(self):
        self.problem = Problem(parse("in=2x6x7x3 filter=3x2x2 strides=2x2"))

    @parameterized.expand(
        [
            ("arrays", np.asarray, np.asarray),
            ("variables", tf.Variable, tf.Variable),
            ("lists", np.ndarray.tolist, np.asarray),
            ("filter list", tf.constant, np.ndarray.tolist),
        ]
    )
    def test_kinds_of_inputs(self, _, of_input, of_filter):
        y = depthwise_conv2d(of_input(self.problem.x), of_filter(self.problem.w), [1, 2, 2, 1], "SAME")
        compare(self, y, self.problem.expected("value"), "float32", "y")

    def test_variables_are_differentiated(self):
        x, w = tf.Variable(self.problem.x), tf.Variable(self.problem.w)
        with tf.GradientTape() as tape:
            y = depthwise_conv2d(x, w, [1, 2, 2, 1], "SAME")
        dx, dw = tape.gradient(y, [x, w], self.problem.dy)
        compare(self, dx, self.problem.expected("input_gradient"), "float32", "dx")
        compare(self, dw, self.problem.expected("filter_gradient"), "float32", "dw")

    def test_name(self):
        with tf.Graph().as_default():
            y = depthwise_conv2d(self.problem.x, self.problem.w, [1, 1, 1, 1], "SAME", name="mine")
        self.assertEqual(y.name, "mine:0")


class PlaceTest(unittest.TestCase):
    """The op where it is called from: control flow, vectorisation, strategies, sessions, threads, saved models."""

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

    # Neither native nor portable under XLA: `vectorized_map` knows no vector form of native's gradient kernels and of
    # portable's DeviceIndex, and falls back to a loop that XLA cannot compile. `auto` takes neither there.
    @parameterized.expand([("native", False), ("taps", False), ("taps", True), ("portable", False)])
    def test_vectorized_map(self, lowering, compiled):
        x, dy = self.x[:, tf.newaxis], self.dy[:, tf.newaxis]
        ws = tf.stack([self.w, -self.w, 2 * self.w])
        per_example = tf.function(
            lambda: (
                tf.vectorized_map(lambda x: self.op(x, self.w, lowering), x),
                tf.vectorized_map(lambda w: self.op(self.x, w, lowering), ws),
                tf.vectorized_map(lambda a: self.op(*a, lowering), (x, ws)),
                tf.vectorized_map(lambda a: self.gradient(a[0], self.w, a[1], lowering), (x, dy)),
            ),
            autograph=False,
            jit_compile=compiled,
        )
        over_input, over_filter, over_both, (dx, dw) = per_example()
        self.expected(over_input[:, 0])
        self.expected(over_filter[0])
        self.expected(over_filter[2] / 2)
        np.testing.assert_allclose(over_both[1], -over_input[1], rtol=1e-6)
        self.expected(dx[:, 0], "input_gradient")
        for i in range(3):
            alone = self.gradient(x[i], self.w, dy[i], lowering)[1]
            np.testing.assert_allclose(dw[i], alone, rtol=1e-4, atol=1e-5)

    def test_vectorized_map_has_a_vector_form_of_every_op(self):
        """Of a stencil on an image padded in memory, too; else it falls back to a loop that XLA cannot compile."""
        x, w = self.x[:, tf.newaxis], tf.random.stateless_normal([5, 5, 2, 1], [0, 1])

        def op(x):
            return depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")

        mapped = tf.function(lambda: tf.vectorized_map(op, x, fallback_to_while_loop=False), jit_compile=True)()
        tf.debugging.assert_near(mapped[:, 0], op(self.x))

    @parameterized.expand([*itertools.product(ELEMENTARY, (False, True)), ("portable", True)])
    def test_while_loop_and_cond(self, lowering, compiled):
        @tf.function(autograph=False, jit_compile=compiled)
        def run(x, w, dy):
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                zero = tf.zeros(self.dy.shape)
                _, total = tf.while_loop(
                    lambda i, total: i < 2,
                    lambda i, total: (i + 1, total + self.op(x, w, lowering)),
                    (0, zero),
                    maximum_iterations=2,
                )
                y = tf.cond(tf.reduce_sum(x) < 1e9, lambda: self.op(x, w, lowering) + total, lambda: zero)
            return (y / 3, *(g / 3 for g in tape.gradient(y, [x, w], dy)))

        for tensor, name in zip(run(self.x, self.w, self.dy), FIRST, strict=True):
            reference = self.problem.expected(name).values
            np.testing.assert_allclose(tensor, reference, rtol=1e-5, atol=1e-5)

    @parameterized.expand(itertools.product((False, True)))
    def test_recompute_grad(self, compiled):
        w = tf.Variable(self.w)

        @tf.function(autograph=False, jit_compile=compiled)
        def run(x, dy):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.recompute_grad(lambda x: self.op(x, w))(x)
            return tape.gradient(y, [x, w], dy)

        dx, dw = run(self.x, self.dy)
        self.expected(dx, "input_gradient")
        self.expected(dw, "filter_gradient")

    @parameterized.expand(itertools.product(LOWERINGS))
    def test_mirrored_strategy(self, lowering):
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            w = tf.Variable(self.w)

        @tf.function(autograph=False)
        def step():
            def replica():
                with tf.GradientTape() as tape:
                    y = self.op(self.x, w, lowering)
                return y, tape.gradient(y, w, self.dy)

            return strategy.run(replica)

        y, dw = step()
        for replica in range(2):
            self.expected(strategy.experimental_local_results(y)[replica])
            self.expected(strategy.experimental_local_results(dw)[replica], "filter_gradient")

    @parameterized.expand([*itertools.product(ELEMENTARY, (True, False)), ("portable", False)])
    def test_session(self, lowering, known):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x, w = (tf.compat.v1.placeholder(tf.float32, a.shape if known else None) for a in (self.x, self.w))
            if not known:
                w.set_shape(self.w.shape)
            y = self.op(x, w, lowering)
            dx, dw = tf.gradients(y, [x, w], self.problem.dy)
            found = session.run([y, dx, dw], {x: self.problem.x, w: self.problem.w})
        for array, name in zip(found, FIRST, strict=True):
            self.expected(tf.constant(array), name)

    def test_unknown_rank(self):
        @tf.function(autograph=False, input_signature=[tf.TensorSpec(None)] * 2)
        def run(x, dy):
            return self.op(x, self.w), *self.gradient(x, self.w, dy)

        for tensor, name in zip(run(self.x, self.dy), FIRST, strict=True):
            self.expected(tensor, name)

    @parameterized.expand(itertools.product((False, True)))
    def test_unknown_filter(self, compiled):
        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None] * 4)] * 3, jit_compile=compiled)
        def run(x, w, dy):
            return self.op(x, w), *self.gradient(x, w, dy)

        found = run(self.x, self.w, self.dy)
        for tensor, name in zip(found, FIRST, strict=True):
            self.expected(tensor, name)

    @parameterized.expand(
        itertools.product(ELEMENTARY, ("in=2x5x6x0 filter=3x2x2 strides=2x2", "in=2x5x6x3 filter=3x2x0 strides=2x2"))
    )
    def test_unknown_channels_that_are_none(self, lowering, notation):
        problem = Problem(parse(notation))

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None] * 4)] * 3)
        def run(x, w, dy):
            return self.op(x, w, lowering), *self.gradient(x, w, dy, lowering)

        for tensor, name in zip(run(problem.x, problem.w, problem.dy), FIRST, strict=True):
            compare(self, tensor, problem.expected(name), "float32", name)

    def test_threads(self):
        found = []

        def run():
            found.extend(self.gradient(self.x, self.w, self.dy) for _ in range(5))

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(found), 40)
        for dx, dw in found:
            self.expected(dx, "input_gradient")
            self.expected(dw, "filter_gradient")

    @parameterized.expand(itertools.product(ELEMENTARY, ("graph", "xla")))
    def test_the_same_bits_every_time(self, lowering, mode):
        problem = Problem(parse("in=4x17x18x8 filter=3x3x1"))
        once, again = (results(problem, lowering, mode) for _ in range(2))
        for name, tensor in again.items():
            self.assertEqual(tensor.numpy().tobytes(), once[name].numpy().tobytes(), name)

    def test_the_same_bits_every_time_of_a_large_graph(self):
        """Where the executor has time to free buffers in another order: by AddN, 12 input gradients were 6 to 12."""
        problem = Problem(parse("in=2x30x37x500 filter=4x4x1"))
        found = [results(problem, "taps", "graph") for _ in range(5)]
        for name in FIRST:
            self.assertEqual(len({tensors[name].numpy().tobytes() for tensors in found}), 1, name)

    def test_op_determinism(self):
        script = """
import tensorflow as tf
from depthwise.ops import depthwise_conv2d
tf.random.set_seed(0)
tf.config.experimental.enable_op_determinism()
x, w = tf.random.normal([4, 17, 18, 8]), tf.random.normal([3, 3, 8, 1])
for lowering in ("native", "taps"):
    for compiled in (False, True):
        @tf.function(autograph=False, jit_compile=compiled)
        def run(x, w):
            y = depthwise_conv2d(x, w, [1] * 4, "SAME", lowering=lowering)
            return tf.gradients(y, [x, w], tf.sin(y))
        a, b = run(x, w), run(x, w)
        assert all(p.numpy().tobytes() == q.numpy().tobytes() for p, q in zip(a, b))
print("same bits")
"""
        self.assertIn("same bits", python(script))

    def module(self, lowering):
        module = tf.Module()
        module.w = tf.Variable(self.w)
        signature = [tf.TensorSpec([None, 5, 6, 2])]
        module.run = tf.function(lambda x: self.op(x, module.w, lowering), input_signature=signature, autograph=False)
        return module

    def test_saved_model_runs_and_differentiates_without_this_package(self):
        with tempfile.TemporaryDirectory() as folder:
            np.savez(os.path.join(folder, "data.npz"), x=self.problem.x, dy=self.problem.dy)
            for lowering in LOWERINGS:
                module = self.module(lowering)
                module.run.get_concrete_function()
                gc.collect()  # of what was traced, saving finds no more than the graph keeps
                tf.saved_model.save(module, os.path.join(folder, lowering))
            python(SERVE.format(folder=folder, lowerings=LOWERINGS))
            for lowering in LOWERINGS:
                with np.load(os.path.join(folder, lowering, "found.npz")) as found:
                    for name in FIRST:
                        self.expected(tf.constant(found[name]), name)
                    self.expected(tf.constant(found["compiled"]))


SERVE = """
import sys
class Blocked:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "depthwise":
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import numpy as np, tensorflow as tf
data = np.load({folder!r} + "/data.npz")
x = tf.constant(data["x"])
for lowering in {lowerings!r}:
    model = tf.saved_model.load({folder!r} + "/" + lowering)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model.run(x)
    dx, dw = tape.gradient(y, [x, model.w], data["dy"])
    compiled = tf.function(model.run, jit_compile=True, autograph=False)(x)
    found = dict(value=y, input_gradient=dx, filter_gradient=dw, compiled=compiled)
    np.savez({folder!r} + "/" + lowering + "/found.npz", **found)
assert "depthwise.ops" not in sys.modules
"""


def python(script):
    """Runs a script in a fresh process; its standard output."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(done.stderr[-3000:])
    return done.stdout
