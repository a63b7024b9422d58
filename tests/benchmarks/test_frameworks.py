"""What is called to be measured: how each mode traces the op, and what the chooser is said to take there."""

import unittest
from unittest import mock

import tensorflow as tf
from parameterized import parameterized

from benchmarks.case import parse
from benchmarks.check_table import chosen_lowering
from benchmarks.frameworks import tensorflow as framework
from benchmarks.measurement import FLOOR, PER_EXAMPLE

CASE = parse("2x6x5x4 k3")


class ModesTest(unittest.TestCase):
    @parameterized.expand([("eager", 2), ("graph", 2), ("xla", 2), ("fit", None)])
    def test_only_fit_leaves_the_batch_open(self, mode, batch):
        seen = []

        def op(x, w, *arguments, **keywords):
            seen.append((x.shape.as_list(), w.shape.as_list()))
            return tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")

        with mock.patch.object(framework, "depthwise_conv2d", op):
            for quantity in ("output", "step"):
                framework.prepare(CASE, "depthwise", mode, quantity)()
        self.assertEqual(seen, [([batch, 6, 5, 4], [3, 3, 4, 1])] * 2)

    @parameterized.expand([("tf.nn",), ("keras layer",), ("depthwise layer",), (FLOOR,)])
    def test_so_it_does_for_all_others(self, implementation):
        traced = []

        def function(python_function, **options):
            if "input_signature" in options:  # or it is one of the op's own
                traced.append([spec.shape.as_list() for spec in options["input_signature"]])
            return tf_function(python_function, **options)

        tf_function = tf.function
        with mock.patch.object(tf, "function", function):
            for quantity in ("output", "input_grad", "step"):
                framework.prepare(CASE, implementation, "fit", quantity)()
        image, filters = [None, 6, 5, 4], [3, 3, 4, 1]
        arguments = [[image, filters], [image, filters, image], [image, filters, image]]
        self.assertEqual(traced, [[[None]]] * 3 if implementation == FLOOR else arguments)

    @parameterized.expand([("depthwise",), ("keras layer",)])
    def test_gradients_of_single_images_add_up_to_that_of_all(self, implementation):
        each, whole = (
            framework.prepare(CASE, implementation, "graph", quantity)() for quantity in (PER_EXAMPLE, "filter_grad")
        )
        self.assertEqual(each.shape, [2, 3, 3, 4, 1])
        self.assertGreater(float(tf.reduce_min(tf.reduce_max(tf.abs(each - whole), [1, 2, 3, 4]))), 0.1)
        tf.debugging.assert_near(tf.reduce_sum(each, 0), tf.convert_to_tensor(whole), rtol=1e-5, atol=1e-5)

    @unittest.skipIf(tf.config.list_physical_devices("GPU"), "with a GPU there are no islands")
    def test_chosen_in_a_mode(self):
        case = parse("8x28x28x192 k7")
        modes = ("eager", "graph", "fit", "xla")
        chosen = [chosen_lowering(case, mode, "filter_grad") for mode in modes]
        self.assertEqual(chosen, ["native", "island", "native", "taps"])
