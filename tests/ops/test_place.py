"""The op where it is called from: control flow, strategies, sessions, threads, saved models."""

import gc
import itertools
import os
import subprocess
import sys
import tempfile
import threading

import numpy as np
import tensorflow as tf
from depthwise.conformance.case import parse
from depthwise.conformance.data import Problem
from depthwise.ops import LOWERINGS
from parameterized import parameterized
from results import ELEMENTARY, FIRST, compare, results
from strided import StridedCase


class PlaceTest(StridedCase):
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

    @parameterized.expand(
        itertools.product(("switch", "cond in while"), ELEMENTARY, ([None, 5, 6, 2], [None, None, None, 2]))
    )
    def test_branches_compiled_where_sizes_are_known_late(self, control, lowering, sizes):
        """XLA must know the sizes of what a branch keeps for its gradient, or fails, or ends the process."""

        def run(x, w):
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                reverse = x[::-1]
                one, other = (lambda: self.op(x, w, lowering)), (lambda: self.op(reverse, w, lowering))
                if control == "switch":
                    y = tf.switch_case(
                        tf.cast(x[0, 0, 0, 0] < 1e9, tf.int32), [lambda: tf.repeat(x[:, ::2, ::2], 2, 3), one]
                    )
                else:
                    y = self.op(x, w, lowering)
                    for_all = (lambda i, y: i < 3), (lambda i, y: (i + 1, y + tf.cond(i < 1, one, other)))
                    _, y = tf.while_loop(*for_all, (0, y), maximum_iterations=3)
                loss = tf.reduce_sum(tf.sin(y))
            return loss, *tape.gradient(loss, [x, w])

        signature = [tf.TensorSpec(sizes), tf.TensorSpec(self.w.shape)]
        compiled = tf.function(run, autograph=False, jit_compile=True, input_signature=signature)
        for found, should in zip(compiled(self.x, self.w), run(self.x, self.w), strict=True):
            np.testing.assert_allclose(found, should, rtol=1e-4, atol=1e-4)

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
