"""depthwise_conv2d as a whole: values and gradients in every mode and lowering, and the kinds of its arguments."""

import itertools
import unittest

import numpy as np
import tensorflow as tf
from depthwise.conformance.case import parse
from depthwise.conformance.data import Problem
from depthwise.ops import LOWERINGS, depthwise_conv2d
from names import by_all
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
    @parameterized.expand([*itertools.product(GEOMETRIES, ELEMENTARY, MODES[:4]), *COMPOSED], name_func=by_all)
    def test_values_and_gradients(self, notation, lowering, mode):
        check(self, notation, lowering, mode)

    @parameterized.expand(
        [
            *itertools.product(GEOMETRIES[1:5:2], ("taps",), ("unknown_xla", "unknown_filter", "unknown_filter_xla")),
            *itertools.product(
                (*GEOMETRIES[1:5:2], "in=2x8x9x4 filter=3x3x1 dilations=2x2"), ("native",), ("unknown_filter",)
            ),
            *itertools.product((*GEOMETRIES, *PADDED), ELEMENTARY, ("unknown_height",)),
        ],
        name_func=by_all,
    )
    def test_sizes_that_are_known_late(self, notation, lowering, mode):
        check(self, notation, lowering, mode)

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
                "in=1x5x6x2 filter=3x2x1 strides=1073741824x300 padding=536870912,536870912,1,600 data=special",
            ),
            ("auto", "taps"),
            ("eager", "graph", "xla", "unknown", "unknown_xla"),
        ),
        name_func=by_all,
    )
    def test_what_stands_further_apart_than_the_image_is_large(self, notation, lowering, mode):
        check(self, notation, lowering, mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x13x12x18 filter=3x3x1 format=NCHW",
                "in=2x11x12x3 filter=3x4x2 strides=2x1",
                "in=1x12x11x2 filter=9x8x2",
                "in=8x31x32x18 filter=5x5x1",
                "in=1x5x6x2 filter=3x2x1 strides=300x1 padding=1,0,0,1",
            ),
            ("graph", "unknown", "xla"),
        ),
        name_func=by_all,
    )
    def test_shapes_of_version_1(self, notation, mode):
        """Of which a size is a `Dimension`: `tf.compat.v1.disable_v2_behavior` brings them."""
        tf.compat.v1.disable_v2_tensorshape()
        self.addCleanup(tf.compat.v1.enable_v2_tensorshape)
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

    @parameterized.expand(itertools.product(EMPTY, ELEMENTARY, ("eager", "graph", "unknown", "xla")), name_func=by_all)
    def test_empty(self, notation, lowering, mode):
        check(self, notation, lowering, mode)

    @parameterized.expand(itertools.product(EMPTY[::3], ("taps", "auto")), name_func=by_all)
    def test_empty_with_unknown_dimensions_under_xla(self, notation, lowering):
        check(self, notation, lowering, "unknown_xla")

    @parameterized.expand([("native",), ("taps",), ("portable",), ("auto",)])
    def test_an_output_gradient_that_alone_is_known_to_be_empty(self, lowering):
        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 2]), tf.TensorSpec([1, None, 0, 2])])
        def gradients(x, dy):
            w = tf.ones([4, 9, 2, 1])
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = depthwise_conv2d(x, w, [1, 2, 4, 1], "VALID", lowering=lowering)
            return tape.gradient(y, [x, w], dy)

        for gradient, shape in zip(
            gradients(tf.ones([1, 16, 5, 2]), tf.ones([1, 7, 0, 2])), ([1, 16, 5, 2], [4, 9, 2, 1]), strict=True
        ):
            np.testing.assert_array_equal(gradient, np.zeros(shape))

    @parameterized.expand([("native",), ("taps",), ("island",), ("portable",), ("auto",)])
    def test_second_order_where_an_output_gradient_alone_is_known_to_be_empty(self, lowering):
        signature = [[None] * 4, [5, 1, 4, 1], [None, 0, None, None], [None, 3, 9, 4]]

        @tf.function(input_signature=[tf.TensorSpec(shape) for shape in signature])
        def second(x, w, dy, u):
            with tf.GradientTape() as outer:
                outer.watch(w)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    y = depthwise_conv2d(x, w, [1, 5, 5, 1], "VALID", lowering=lowering)
                dx = inner.gradient(y, x, dy)
            return outer.gradient(dx, w, u)

        x, w = tf.ones([3, 3, 9, 4]), tf.ones([5, 1, 4, 1])
        np.testing.assert_array_equal(second(x, w, tf.ones([3, 0, 2, 4]), x), np.zeros([5, 1, 4, 1]))

    @parameterized.expand(FLOATS_IN_MODES, name_func=by_all)
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

    @parameterized.expand(
        [row for row in FLOATS_IN_MODES if row[0] in ("float32", "float64") and row[2] != "graph"], name_func=by_all
    )
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
        compare(self, dx, self.problem.expected("input_grad"), "float32", "dx")
        compare(self, dw, self.problem.expected("filter_grad"), "float32", "dw")

    def test_name(self):
        with tf.Graph().as_default():
            y = depthwise_conv2d(self.problem.x, self.problem.w, [1, 1, 1, 1], "SAME", name="mine")
        self.assertEqual(y.name, "mine:0")
