"""Derivatives beyond the first: against the oracle, finite differences and each other."""

import gc
import itertools
import unittest
import weakref
from unittest import mock

import numpy as np
import tensorflow as tf
from depthwise.conformance.case import parse
from depthwise.conformance.data import SECOND_ORDER, Problem
from depthwise.ops import LOWERINGS, depthwise_conv2d, differentiable
from names import by_all
from parameterized import parameterized
from results import ELEMENTARY, compare, in_mode

CASES = (
    "in=2x5x6x2 filter=3x3x1",
    "in=1x6x5x2 filter=2x3x2 strides=2x2 padding=VALID",
    "in=1x5x6x2 filter=3x2x2 strides=2x1 dilations=1x2 padding=1,0,2,1 format=NCHW",
)


UNEQUAL = "in=2x6x4x3 filter=3x3x1 strides=2x1"
COMPOSED = tuple(itertools.product(CASES[:1], ("portable", "island"), ("graph",)))
# In float64, in which native is refused under XLA.
FLOAT64 = [p for p in itertools.product(LOWERINGS, (None, False, True)) if p != ("native", True)]


class SecondOrderTest(unittest.TestCase):
    @parameterized.expand([*itertools.product(CASES, ELEMENTARY, ("unknown", "xla")), *COMPOSED], name_func=by_all)
    def test_against_the_oracle(self, notation, lowering, mode):
        problem = Problem(parse(notation))
        case = problem.case

        def run(x, w, dy, u, v):
            with tf.GradientTape(persistent=True) as outer:
                outer.watch([x, w, dy])
                with tf.GradientTape() as inner:
                    inner.watch([x, w])
                    y = depthwise_conv2d(x, w, **case.arguments(), lowering=lowering)
                dx, dw = inner.gradient(y, [x, w], dy)
            return [*outer.gradient(dx, [w, dy], u), *outer.gradient(dw, [x, dy], v)]

        arrays = (problem.x, problem.w, problem.dy, problem.u, problem.v)
        found = in_mode(run, mode, case, *(a.shape for a in arrays))(*map(tf.constant, arrays))
        for tensor, name in zip(found, SECOND_ORDER, strict=True):
            compare(self, tensor, problem.expected(name), "float32", f"{name} [{lowering}, {mode}, {notation}]")


class ManyOrdersTest(unittest.TestCase):
    """A function in which the op is not linear: sum(tanh(conv(x, w)) ** 2), in float64."""

    def setUp(self):
        self.problem = Problem(parse("in=1x5x4x2 filter=3x2x2 strides=2x1 dtype=float64"))
        draw = np.random.default_rng(0)
        self.x, self.w = tf.constant(self.problem.x), tf.constant(self.problem.w)
        self.vx, self.vw = (tf.constant(draw.normal(size=t.shape)) for t in (self.x, self.w))

    def f(self, x, w, lowering="auto"):
        return tf.reduce_sum(tf.tanh(depthwise_conv2d(x, w, **self.problem.case.arguments(), lowering=lowering)) ** 2)

    def along(self, t, lowering):
        """The function on a line through (x, w)."""
        return self.f(self.x + t * self.vx, self.w + t * self.vw, lowering)

    @parameterized.expand([("native", False), ("taps", False), ("taps", True)])
    def test_three_orders_against_finite_differences(self, lowering, compiled):
        @tf.function(autograph=False, jit_compile=compiled)
        def derivatives(t):
            with tf.GradientTape() as third:
                third.watch(t)
                with tf.GradientTape() as second:
                    second.watch(t)
                    with tf.GradientTape() as first:
                        first.watch(t)
                        value = self.along(t, lowering)
                    d1 = first.gradient(value, t)
                d2 = second.gradient(d1, t)
            return value, d1, d2, third.gradient(d2, t)

        h = 1e-5
        zero = derivatives(tf.constant(0.0, tf.float64))
        above, below = (derivatives(tf.constant(s * h, tf.float64)) for s in (1, -1))
        for order in range(3):
            numeric = (above[order] - below[order]) / (2 * h)
            np.testing.assert_allclose(zero[order + 1], numeric, rtol=1e-6, atol=1e-6)

    @parameterized.expand(FLOAT64)
    def test_forward_mode_is_the_transpose_of_reverse_mode(self, lowering, compiled):
        def both(x, w):
            with tf.autodiff.ForwardAccumulator([x, w], [self.vx, self.vw]) as forward:
                value = self.f(x, w, lowering)
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                again = self.f(x, w, lowering)
            dx, dw = tape.gradient(again, [x, w])
            return forward.jvp(value), tf.reduce_sum(dx * self.vx) + tf.reduce_sum(dw * self.vw)

        run = both if compiled is None else tf.function(both, autograph=False, jit_compile=compiled)
        forward, reverse = run(self.x, self.w)
        np.testing.assert_allclose(forward, reverse, rtol=1e-12)

    @parameterized.expand(FLOAT64)
    def test_hessian_vector_product_forward_over_reverse(self, lowering, compiled):
        def product(x, w):
            with tf.autodiff.ForwardAccumulator([x, w], [self.vx, self.vw]) as forward:
                with tf.GradientTape() as tape:
                    tape.watch([x, w])
                    value = self.f(x, w, lowering)
                gradients = tape.gradient(value, [x, w])
            return forward.jvp(gradients)

        run = product if compiled is None else tf.function(product, autograph=False, jit_compile=compiled)
        hx, hw = run(self.x, self.w)
        t = tf.constant(0.0, tf.float64)
        with tf.GradientTape() as outer:
            outer.watch(t)
            with tf.GradientTape() as inner:
                inner.watch(t)
                value = self.along(t, lowering)
            d1 = inner.gradient(value, t)
        d2 = outer.gradient(d1, t)
        np.testing.assert_allclose(tf.reduce_sum(hx * self.vx) + tf.reduce_sum(hw * self.vw), d2, rtol=1e-10)

    @parameterized.expand([p for p in FLOAT64 if p[1] is not None])
    def test_forward_mode_around_a_function(self, lowering, compiled):
        f = tf.function(lambda x, w: self.f(x, w, lowering), autograph=False, jit_compile=compiled)
        with tf.autodiff.ForwardAccumulator([self.x, self.w], [self.vx, self.vw]) as forward:
            value = f(self.x, self.w)
        with tf.GradientTape() as tape:
            tape.watch([self.x, self.w])
            again = f(self.x, self.w)
        dx, dw = tape.gradient(again, [self.x, self.w])
        reverse = tf.reduce_sum(dx * self.vx) + tf.reduce_sum(dw * self.vw)
        np.testing.assert_allclose(forward.jvp(value), reverse, rtol=1e-12)

    @parameterized.expand(
        itertools.product(((None,) * 4, (2, None, 7, 3)), ((None,) * 4, (3, 2, 3, 2)), (False, True)), name_func=by_all
    )
    def test_forward_mode_where_sizes_are_known_late(self, image, window, compiled):
        """The op is linear in either: along twice the input and once the filter it grows three times as fast."""
        signature = [tf.TensorSpec(shape) for shape in (image, window)]

        @tf.function(autograph=False, jit_compile=compiled, input_signature=signature)
        def both(x, w):
            with tf.autodiff.ForwardAccumulator([x, w], [2 * x, w]) as forward:
                y = depthwise_conv2d(x, w, [1, 1, 1, 1], [[0, 0], [1, 2], [0, 1], [0, 0]])
            return y, forward.jvp(y)

        draw = np.random.default_rng(0)
        y, along = both(*(draw.normal(size=shape).astype(np.float32) for shape in ((2, 6, 7, 3), (3, 2, 3, 2))))
        np.testing.assert_allclose(along, 3 * y, rtol=1e-5, atol=1e-5)


class VectorizedTest(unittest.TestCase):
    """What `tf.vectorized_map` makes of the gradients: every row of a Jacobian is a gradient."""

    @parameterized.expand(
        itertools.product((*CASES, UNEQUAL, UNEQUAL + " dtype=float64"), ELEMENTARY, (False, True)), name_func=by_all
    )
    def test_jacobians(self, notation, lowering, in_function):
        problem = Problem(parse(notation))

        def jacobians(x, w):
            with tf.GradientTape(persistent=True) as tape:
                tape.watch([x, w])
                y = depthwise_conv2d(x, w, **problem.case.arguments(), lowering=lowering)
            return tape.jacobian(y, x), tape.jacobian(y, w)

        run = tf.function(jacobians, autograph=False) if in_function else jacobians
        tensors = tf.constant(problem.x), tf.constant(problem.w)
        for rows, name in zip(run(*tensors), ("input_grad", "filter_grad"), strict=True):
            gradient = tf.tensordot(tf.constant(problem.dy), rows, 4)
            compare(self, gradient, problem.expected(name), problem.case.dtype, f"{name} [{lowering}, {notation}]")

    def test_jacobians_of_what_turns_out_to_be_empty(self):
        @tf.function(autograph=False, input_signature=[tf.TensorSpec([3, None, 7, 2]), tf.TensorSpec([3, 3, 2, 1])])
        def jacobians(x, w):
            with tf.GradientTape(persistent=True) as tape:
                tape.watch([x, w])
                y = depthwise_conv2d(x, w, [1] * 4, "VALID")
            return tape.jacobian(y, x), tape.jacobian(y, w)

        by_input, by_filter = jacobians(tf.ones([3, 1, 7, 2]), tf.ones([3, 3, 2, 1]))
        self.assertEqual(by_input.shape, [3, 0, 5, 2, 3, 1, 7, 2])
        self.assertEqual(by_filter.shape, [3, 0, 5, 2, 3, 3, 2, 1])

    @parameterized.expand([(name,) for name in ELEMENTARY])
    def test_hessian(self, lowering):
        problem = Problem(parse(UNEQUAL))
        x, w, dy = map(tf.constant, (problem.x, problem.w, problem.dy))

        def gradient(w):
            with tf.GradientTape() as tape:
                tape.watch(w)
                y = depthwise_conv2d(x, w, **problem.case.arguments(), lowering=lowering)
                loss = tf.reduce_sum(dy * y * y)
            return tape.gradient(loss, w)

        with tf.GradientTape(persistent=True) as tape:
            tape.watch(w)
            found = gradient(w)
        # Column by column, the slow way, which vectorizes nothing.
        hessians = [tape.jacobian(found, w, experimental_use_pfor=on) for on in (True, False)]
        np.testing.assert_allclose(*hessians, rtol=1e-4, atol=1e-4)


class UpstreamTest(unittest.TestCase):
    """Gradients as they come in, and graphs as they come from elsewhere."""

    @parameterized.expand([(None,), (False,), (True,)])
    def test_slices(self, compiled):
        """Behind `tf.gather`, a gradient is IndexedSlices."""
        problem = Problem(parse("in=3x5x6x2 filter=3x3x2"))
        x, w = tf.constant(problem.x), tf.constant(problem.w)

        def derivatives(x, w, pick):
            with tf.GradientTape() as outer:
                outer.watch(w)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    loss = tf.reduce_sum(pick(depthwise_conv2d(x, w, [1] * 4, "SAME")) ** 2)
                dx = inner.gradient(loss, x)
            return dx, outer.gradient(dx, w)

        run = derivatives if compiled is None else tf.function(derivatives, autograph=False, jit_compile=compiled)
        gathered = run(x, w, lambda y: tf.gather(y, [0, 2]))
        sliced = run(x, w, lambda y: y[::2])
        for one, other in zip(gathered, sliced, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

    @parameterized.expand(itertools.product(LOWERINGS, ("VALID", "SAME")))
    def test_of_unknown_rank(self, lowering, padding):
        """Whether there is an output (not with this filter, VALID) or none."""
        signature = [[None, 8, 8, 4], [3, 3, 4, 1], None, None]

        def second(x, w, dy, u):
            with tf.GradientTape() as outer:
                outer.watch(w)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    y = depthwise_conv2d(x, w, [1] * 4, padding, dilations=[9, 1], lowering=lowering)
                dx = inner.gradient(y, x, dy)
            return outer.gradient(dx, w, u)

        x, w, u = (
            tf.random.stateless_normal(shape, [0, seed])
            for seed, shape in enumerate(([2, 8, 8, 4], signature[1], [2, 8, 8, 4]))
        )
        dy = tf.zeros([2, 0, 6, 4]) if padding == "VALID" else u
        run = tf.function(second, autograph=False, input_signature=[tf.TensorSpec(shape) for shape in signature])
        np.testing.assert_allclose(run(x, w, dy, u), second(x, w, dy, u), rtol=1e-5, atol=1e-4)

    @parameterized.expand(itertools.product(LOWERINGS, ("output", "input_grad", "filter_grad"), (False, True)))
    def test_of_a_wrong_shape(self, lowering, contraction, in_function):
        """Of which a kernel would abort, or leave something out."""
        x, w, dy = tf.ones([2, 6, 6, 2]), tf.ones([3, 3, 2, 1]), tf.ones([2, 6, 6, 2])

        def gradients(g):
            with tf.GradientTape() as outer:
                outer.watch([x, w])
                with tf.GradientTape() as inner:
                    inner.watch([x, w])
                    y = depthwise_conv2d(x, w, [1] * 4, "SAME", lowering=lowering)
                if contraction == "output":
                    return inner.gradient(y, [x, w], g)
                found = inner.gradient(y, x if contraction == "input_grad" else w, dy)
            return outer.gradient(found, [x, w], g)

        run = tf.function(gradients, autograph=False) if in_function else gradients
        for more in (-1, 1):
            shape = (w if contraction == "filter_grad" else x).shape.as_list()
            shape[1] += more
            with self.assertRaisesRegex(ValueError, "`output_gradients` must have the shape of the"):
                run(tf.ones(shape))

    def test_a_graph_from_elsewhere_is_not_given_the_gradient_of_another_convolution(self):
        """Of the same number there: it has none, then."""
        x, w = tf.ones([1, 6, 6, 2]), tf.ones([3, 3, 2, 1])

        def graph_of(dilations):
            with mock.patch.object(differentiable, "_NUMBERS", itertools.count(10**6)), tf.Graph().as_default() as g:
                depthwise_conv2d(x.numpy(), w.numpy(), [1] * 4, "SAME", dilations=dilations, name="y")
            return g

        (one,), (other,) = (
            {node.attr["_gradient_op_type"].s for node in graph_of(rate).as_graph_def().node if node.op == "IdentityN"}
            for rate in (1, 2)
        )
        self.assertNotEqual(one, other)


class ConnectionTest(unittest.TestCase):
    def setUp(self):
        self.x, self.w = tf.ones([1, 4, 4, 2]), tf.ones([3, 3, 2, 1])

    def test_unconnected_gradients(self):
        other = tf.constant(1.0)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([self.x, other])
            y = depthwise_conv2d(self.x, self.w, [1] * 4, "SAME")
        self.assertIsNone(tape.gradient(y, other))
        self.assertEqual(float(tape.gradient(y, other, unconnected_gradients="zero")), 0.0)
        self.assertIsNone(tape.gradient(y, self.w))

    def test_second_order_in_one_argument_vanishes(self):
        # The op is linear in the filter: what does not depend on a tensor has no or a zero gradient.
        with tf.GradientTape() as outer:
            outer.watch(self.w)
            with tf.GradientTape() as inner:
                inner.watch(self.w)
                y = depthwise_conv2d(self.x, self.w, [1] * 4, "SAME")
            dw = inner.gradient(y, self.w)
        self.assertEqual(np.abs(outer.gradient(dw, self.w, unconnected_gradients="zero")).max(), 0.0)

    def test_stopped_recording(self):
        with tf.GradientTape() as tape:
            tape.watch(self.x)
            with tape.stop_recording():
                y = depthwise_conv2d(self.x, self.w, [1] * 4, "SAME")
        self.assertIsNone(tape.gradient(y, self.x))

    @parameterized.expand(LOWERINGS)
    def test_a_graph_goes_with_its_function(self, lowering):
        def traced():
            @tf.function
            def gradients(x, w):
                with tf.GradientTape() as tape:
                    tape.watch([x, w])
                    y = depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME", lowering=lowering)
                return tape.gradient(y, [x, w])

            shapes = [2, 5, 6, 3], [3, 2, 3, 1]
            return weakref.ref(gradients.get_concrete_function(*map(tf.TensorSpec, shapes)).graph)

        graph = traced()
        gc.collect()
        self.assertIsNone(graph())

    def test_tensorflow_still_records_what_it_is_told(self):
        # Where it does not, `tf.custom_gradient` takes over: right, but for forward mode in graphs.
        record = differentiable.record
        self.assertEqual(record.__name__, "tensorflow.python.eager.record")
        # And tells whether anything records: else every call would be, and a small eager one take twice the time.
        self.assertFalse(record.could_possibly_record())
        with tf.GradientTape():
            self.assertTrue(record.could_possibly_record())
        with tf.autodiff.ForwardAccumulator(self.x, self.x):
            self.assertTrue(record.could_possibly_record())
