"""The op where it is called from: in `tf.vectorized_map`, with tapes within and around."""

import itertools
from unittest import mock

import numpy as np
import tensorflow as tf
from depthwise.conformance.case import parse
from depthwise.ops import LOWERINGS, depthwise_conv2d, mapped
from parameterized import parameterized
from results import ELEMENTARY
from strided import StridedCase

DIFFERENTIATED = (
    "dilations=2x2",
    "dilations=2x1 padding=VALID",
    "strides=1x2",
    "strides=2x1 dilations=1x2",
    "format=NCHW",
)


CONTRACTIONS = ("output", "input_grad", "filter_grad")
KERNELS = dict(
    zip(CONTRACTIONS, ("DepthwiseConv2dNative" + kind for kind in ("", "BackpropInput", "BackpropFilter")), strict=True)
)


class MapTest(StridedCase):
    @parameterized.expand(itertools.product(LOWERINGS, (False, True)))
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
        self.expected(dx[:, 0], "input_grad")
        for i in range(3):
            alone = self.gradient(x[i], self.w, dy[i], lowering)[1]
            np.testing.assert_allclose(dw[i], alone, rtol=1e-4, atol=1e-5)

    @parameterized.expand(itertools.product(CONTRACTIONS, ("native", "island"), ("w", "x", "")))
    def test_elements_are_one_convolution(self, contraction, lowering, shared):
        """TensorFlow would call a kernel for each, and run what XLA is to fuse op by op."""

        def one(x, w, dy):
            x, w = (self.x if shared == "x" else x), (self.w if shared == "w" else w)
            if contraction == "output":
                return self.op(x, w, lowering)
            return self.gradient(x, w, dy, lowering)[contraction == "filter_grad"]

        stacks = [tf.stack([tensor] * 4) for tensor in (self.x, self.w, self.dy)]
        mapped = tf.function(lambda *all: tf.vectorized_map(lambda each: one(*each), all), autograph=False)
        used = used_ops(mapped.get_concrete_function(*stacks).graph)
        if lowering == "island":
            found = [op.get_attr("_XlaMustCompile") for op in used if op.type == "PartitionedCall"]
            self.assertEqual(found, [True])
        else:
            found = [op.type for op in used if "While" in op.type or "Conv" in op.type]
            self.assertEqual(found, [KERNELS[contraction]])

    @parameterized.expand([(False,), (True,)])
    def test_elements_are_left_as_they_lie_where_xla_fuses(self, compiled):
        """To make elements channels takes passes of its own."""
        stacks = [tf.stack([tensor] * 4) for tensor in (self.x, self.w, self.dy)]

        def run(*all):
            return tf.vectorized_map(lambda each: self.gradient(*each)[1], all)

        with mock.patch.object(mapped._Fold, "fold", autospec=True, side_effect=mapped._Fold.fold) as fold:
            tf.function(run, autograph=False, jit_compile=compiled).get_concrete_function(*stacks)
        self.assertEqual(fold.called, not compiled)

    @parameterized.expand(ELEMENTARY)
    def test_no_image_is_repeated_that_is_much_larger_than_its_output(self, lowering):
        """The rows of a Jacobian by the filter share it."""
        x = tf.zeros([1, 32, 32, 8])

        @tf.function(autograph=False)
        def jacobian(w):
            with tf.GradientTape() as tape:
                tape.watch(w)
                y = depthwise_conv2d(x, w, [1, 16, 16, 1], "VALID", lowering=lowering)
            return tape.jacobian(y, w)

        used = used_ops(jacobian.get_concrete_function(tf.TensorSpec([3, 3, 8, 1])).graph)
        sizes = [t.shape.num_elements() or 0 for op in used for t in op.outputs if t.shape.rank]
        self.assertLess(max(sizes), 4 * tf.size(x))

    @parameterized.expand(
        [*itertools.product(("auto", *LOWERINGS), (False,)), *itertools.product(("auto", *ELEMENTARY), (True,))]
    )
    def test_jacobians_inside_a_map(self, lowering, compiled):
        x = self.x[:, tf.newaxis]

        def jacobians(x):
            with tf.GradientTape(persistent=True) as tape:
                tape.watch([x, self.w])
                y = self.op(x, self.w, lowering)
            return tape.jacobian(y, x), tape.jacobian(y, self.w)

        run = tf.function(lambda: tf.vectorized_map(jacobians, x), autograph=False, jit_compile=compiled)
        by_input, by_filter = run()
        dx = tf.einsum("nijk,nijkbxyc->nxyc", self.dy, by_input[:, 0])
        self.expected(dx, "input_grad")
        self.expected(tf.einsum("nijk,nijkxycm->xycm", self.dy, by_filter[:, 0]), "filter_grad")

    def test_gradient_of_what_a_mapped_function_closes_over(self):
        x, dy = self.x[:, tf.newaxis], self.dy[:, tf.newaxis]

        @tf.function(autograph=False)
        def gradient():
            with tf.GradientTape() as tape:
                tape.watch(self.w)
                y = tf.vectorized_map(lambda x: self.op(x, self.w), x)
            return tape.gradient(y, self.w, dy)

        self.expected(gradient(), "filter_grad")

    @parameterized.expand(ELEMENTARY)
    def test_gradients_of_vectorized_map_of_unknown_rank(self, lowering):
        @tf.function(autograph=False, input_signature=[tf.TensorSpec(None)] * 3)
        def gradients(x, w, dy):
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = tf.vectorized_map(lambda x: self.op(x, w, lowering), x)
            return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(y, [x, w], dy)]

        dx, dw = gradients(self.x[:, tf.newaxis], self.w, self.dy[:, tf.newaxis])
        self.expected(dx[:, 0], "input_grad")
        self.expected(dw, "filter_grad")

    @parameterized.expand(itertools.product(LOWERINGS, (False, True)))
    def test_gradients_of_vectorized_map_where_rows_take_branches(self, lowering, all_take_one):
        """Then the other branch is mapped over no rows."""
        x, dy = self.x[:, tf.newaxis], self.dy[:, tf.newaxis]
        least = -np.inf if all_take_one else np.median(x[:, 0, 0, 0, 0])

        @tf.function(autograph=False)
        def gradients(x, w):
            def one(x):
                takes_it = x[0, 0, 0, 0] >= least
                return tf.cond(takes_it, lambda: self.op(x, w, lowering), lambda: self.op(x, 2 * w, lowering) / 2)

            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = tf.vectorized_map(one, x)
            return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(y, [x, w], dy)]

        dx, dw = gradients(x, self.w)
        self.expected(dx[:, 0], "input_grad")
        self.expected(dw, "filter_grad")

    @parameterized.expand(itertools.product(LOWERINGS, ("eager", "graph")))
    def test_gradients_of_maps_in_maps(self, lowering, mode):
        x, ws = self.x[:, tf.newaxis], tf.stack([self.w, -self.w])
        dy = tf.stack([self.dy, tf.zeros_like(self.dy)], 1)[:, :, tf.newaxis]

        def gradients(x, ws):
            with tf.GradientTape() as tape:
                tape.watch([x, ws])
                y = tf.vectorized_map(lambda x: tf.vectorized_map(lambda w: self.op(x, w, lowering), ws), x)
            return tape.gradient(y, [x, ws], dy)

        dx, dws = (gradients if mode == "eager" else tf.function(gradients, autograph=False))(x, ws)
        self.expected(dx[:, 0], "input_grad")
        self.expected(dws[0], "filter_grad")
        np.testing.assert_array_equal(dws[1], np.zeros(dws[1].shape))

    @parameterized.expand(itertools.product(ELEMENTARY, (0, 3)))
    def test_jacobians_of_vectorized_map(self, lowering, rows):
        x = self.x[:rows, tf.newaxis]

        @tf.function(autograph=False)
        def jacobians(x, w):
            with tf.GradientTape(persistent=True) as tape:
                tape.watch([x, w])
                y = tf.vectorized_map(lambda x: self.op(x, w, lowering), x)
            return tape.gradient(y, w), tape.jacobian(y, x), tape.jacobian(y, w)

        total, by_input, by_filter = jacobians(x, self.w)
        self.assertEqual(total.shape, self.w.shape)
        if rows:
            dy = self.dy[:, tf.newaxis]
            self.expected(tf.tensordot(dy, by_input, 5)[:, 0], "input_grad")
            self.expected(tf.tensordot(dy, by_filter, 5), "filter_grad")
        else:
            np.testing.assert_array_equal(total, np.zeros(total.shape))

    @parameterized.expand(LOWERINGS)
    def test_gradients_of_vectorized_map_over_one_row(self, lowering):
        """Which is not vectorized."""
        x, dy = self.x[tf.newaxis], self.dy[tf.newaxis]
        with tf.GradientTape() as tape:
            tape.watch(self.w)
            y = tf.vectorized_map(lambda x: self.op(x, self.w, lowering), x)
        self.expected(tape.gradient(y, self.w, dy), "filter_grad")

    def test_vectorized_map_has_a_vector_form_of_every_op(self):
        """Of a stencil on an image padded in memory, too; else it falls back to a loop that XLA cannot compile."""
        x, w = self.x[:, tf.newaxis], tf.random.stateless_normal([5, 5, 2, 1], [0, 1])

        def op(x):
            return depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")

        mapped = tf.function(lambda: tf.vectorized_map(op, x, fallback_to_while_loop=False), jit_compile=True)()
        tf.debugging.assert_near(mapped[:, 0], op(self.x))

    @parameterized.expand(
        [
            *itertools.product(("native",), DIFFERENTIATED, ("graph",)),
            *itertools.product(("native",), DIFFERENTIATED[:1], ("eager", "nested")),
            *itertools.product(("taps", "island", "portable"), DIFFERENTIATED[-1:], ("graph",)),
            ("taps", DIFFERENTIATED[0], "xla"),
        ]
    )
    def test_gradients_of_vectorized_map(self, lowering, words, mode):
        """A tape around the map differentiates what the map has made of the op."""
        case = parse(f"in=1x5x6x2 filter=3x2x2 {words}")
        x, w, *cotangents = (
            tf.random.stateless_normal([3, *shape], [seed, 0])
            for seed, shape in enumerate((case.input_shape, case.filter_shape, *[case.output_shape] * 3))
        )

        def op(x, w):
            return depthwise_conv2d(x, w, **case.arguments(), lowering=lowering)

        one = tf.function(op, autograph=False) if mode == "nested" else op
        over = (
            lambda x, w: tf.vectorized_map(lambda x: one(x, w[0]), x),
            lambda x, w: tf.vectorized_map(lambda w: one(x[0], w), w),
            lambda x, w: tf.vectorized_map(lambda both: one(*both), (x, w)),
        )
        alone = (
            lambda x, w: tf.stack([op(x[i], w[0]) for i in range(3)]),
            lambda x, w: tf.stack([op(x[0], w[i]) for i in range(3)]),
            lambda x, w: tf.stack([op(x[i], w[i]) for i in range(3)]),
        )

        def derivatives(how):
            def run(x, w):
                with tf.GradientTape() as outer:
                    outer.watch([x, w])
                    with tf.GradientTape(persistent=True) as inner:
                        inner.watch([x, w])
                        values = [f(x, w) for f in how]
                    gradients = [
                        inner.gradient(y, [x, w], dy, tf.UnconnectedGradients.ZERO)
                        for y, dy in zip(values, cotangents, strict=True)
                    ]
                    loss = sum(tf.reduce_sum(dx * dx * x) + tf.reduce_sum(dw * dw * w) for dx, dw in gradients)
                return [*itertools.chain(*gradients), *outer.gradient(loss, [x, w])]

            return run

        run = derivatives(over)
        if mode != "eager":
            run = tf.function(run, autograph=False, jit_compile=mode == "xla")
        for found, should in zip(run(x, w), derivatives(alone)(x, w), strict=True):
            np.testing.assert_allclose(found, should, rtol=1e-4, atol=1e-4 * np.abs(should).max())


def used_ops(graph):
    """The ops of a graph that its outputs need."""
    found, left = {}, [tensor.op for tensor in graph.outputs]
    while left:
        op = left.pop()
        if op.name not in found:
            found[op.name] = op
            left += [tensor.op for tensor in op.inputs] + op.control_inputs
    return list(found.values())
