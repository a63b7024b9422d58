"""The op where it is called from: control flow, vectorisation, strategies, sessions, threads, saved models."""

import gc
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import unittest

import numpy as np
import tensorflow as tf
from depthwise.conformance.case import parse
from depthwise.conformance.data import Problem
from depthwise.ops import LOWERINGS, depthwise_conv2d
from parameterized import parameterized
from results import ELEMENTARY, FIRST, compare, results

DIFFERENTIATED = (
    "dilations=2x2",
    "dilations=2x1 padding=VALID",
    "strides=1x2",
    "strides=2x1 dilations=1x2",
    "format=NCHW",
)


class PlaceTest(unittest.TestCase):
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
        self.expected(dx[:, 0], "input_grad")
        for i in range(3):
            alone = self.gradient(x[i], self.w, dy[i], lowering)[1]
            np.testing.assert_allclose(dw[i], alone, rtol=1e-4, atol=1e-5)

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
        self.expected(dx, "input_grad")
        self.expected(dw, "filter_grad")

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
            self.expected(strategy.experimental_local_results(dw)[replica], "filter_grad")

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
            self.expected(dx, "input_grad")
            self.expected(dw, "filter_grad")

    @parameterized.expand(itertools.product(ELEMENTARY, ("graph", "xla")))
    def test_the_same_bits_every_time(self, lowering, mode):
        problem = Problem(parse("in=4x17x18x8 filter=3x3x1"))
        once, again = (results(problem, lowering, mode) for _ in range(2))
        for name, tensor in again.items():
            self.assertEqual(tensor.numpy().tobytes(), once[name].numpy().tobytes(), name)

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
    found = dict(value=y, input_grad=dx, filter_grad=dw, compiled=compiled)
    np.savez({folder!r} + "/" + lowering + "/found.npz", **found)
assert "depthwise.ops" not in sys.modules
"""


def python(script):
    """Runs a script in a fresh process; its standard output."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(done.stderr[-3000:])
    return done.stdout
