"""ConvSpec: every bad argument is refused with a message that helps; every spelling of a good one is the same."""

import itertools
import unittest

import numpy as np
import tensorflow as tf
from depthwise.ops import depthwise_conv2d, explain
from depthwise.ops.spec import canonicalize
from parameterized import parameterized

X, W = np.ones((1, 5, 5, 2), np.float32), np.ones((3, 3, 2, 1), np.float32)

# What is wrong with one call: a label, the arguments that differ from a good call, the error, the argument it names.
BAD = [
    ("rank 3", {"input": X[0]}, ValueError, "input"),
    ("rank 5", {"input": X[None]}, ValueError, "input"),
    ("rank 0", {"input": np.float32(1)}, ValueError, "input"),
    ("no input", {"input": None}, TypeError, "input"),
    ("ragged", {"input": tf.ragged.constant([[1.0], [1.0, 2.0]])}, TypeError, "input"),
    ("sparse", {"input": tf.sparse.from_dense(X)}, TypeError, "input"),
    ("ragged list", {"input": [[1.0], [1.0, 2.0]]}, TypeError, "input"),
    ("an object", {"input": object()}, TypeError, "input"),
    ("strings", {"input": np.full((1, 5, 5, 2), "a")}, TypeError, "input"),
    ("booleans", {"input": X > 0, "filter": W > 0}, TypeError, "input"),
    ("uint16", {"input": X.astype(np.uint16), "filter": W.astype(np.uint16)}, TypeError, "input"),
    ("filter rank 3", {"filter": W[0]}, ValueError, "filter"),
    ("filter rank 5", {"filter": W[None]}, ValueError, "filter"),
    ("no filter", {"filter": None}, TypeError, "filter"),
    ("filter without rows", {"filter": W[:0]}, ValueError, "filter"),
    ("filter without columns", {"filter": W[:, :0]}, ValueError, "filter"),
    ("other channels", {"filter": np.ones((3, 3, 3, 1), np.float32)}, ValueError, "filter"),
    ("other channels in NCHW", {"data_format": "NCHW"}, ValueError, "filter"),
    ("other dtype", {"filter": W.astype(np.float64)}, TypeError, "filter"),
    ("no strides", {"strides": None}, TypeError, "strides"),
    ("one stride", {"strides": 1}, TypeError, "strides"),
    ("two strides", {"strides": [1, 1]}, ValueError, "strides"),
    ("five strides", {"strides": [1] * 5}, ValueError, "strides"),
    ("endless strides", {"strides": itertools.repeat(1)}, ValueError, "strides"),
    ("stride 0", {"strides": [1, 0, 1, 1]}, ValueError, "strides"),
    ("negative stride", {"strides": [1, 1, -1, 1]}, ValueError, "strides"),
    ("batch stride", {"strides": [2, 1, 1, 1]}, ValueError, "strides"),
    ("channel stride", {"strides": [1, 1, 1, 2]}, ValueError, "strides"),
    ("channel stride in NCHW", {"strides": [1, 2, 1, 1], "data_format": "NCHW"}, ValueError, "strides"),
    ("floating stride", {"strides": [1, 2.0, 2.0, 1]}, TypeError, "strides"),
    ("boolean stride", {"strides": [1, True, True, 1]}, TypeError, "strides"),
    ("string strides", {"strides": "1111"}, TypeError, "strides"),
    ("huge stride", {"strides": [1, 2**31, 1, 1]}, ValueError, "strides"),
    ("stride None", {"strides": [1, None, None, 1]}, TypeError, "strides"),
    ("no padding", {"padding": None}, TypeError, "padding"),
    ("lower case", {"padding": "same"}, ValueError, "padding"),
    ("junk padding", {"padding": "\0"}, ValueError, "padding"),
    ("two pairs", {"padding": [[1, 1], [1, 1]]}, ValueError, "padding"),
    ("triples", {"padding": [[0, 0, 0]] * 4}, ValueError, "padding"),
    ("flat padding", {"padding": [0, 1, 1, 0]}, TypeError, "padding"),
    ("negative padding", {"padding": [[0, 0], [-1, 0], [0, 0], [0, 0]]}, ValueError, "padding"),
    ("batch padding", {"padding": [[1, 0], [0, 0], [0, 0], [0, 0]]}, ValueError, "padding"),
    ("channel padding", {"padding": [[0, 0], [0, 0], [0, 0], [0, 1]]}, ValueError, "padding"),
    ("floating padding", {"padding": [[0, 0], [1.0, 0], [0, 0], [0, 0]]}, TypeError, "padding"),
    ("huge padding", {"padding": [[0, 0], [2**31 - 1, 0], [0, 0], [0, 0]]}, ValueError, "padding"),
    ("more elements than 63 bits", {"padding": [[0, 0], [2**30] * 2, [2**30] * 2, [0, 0]]}, ValueError, "padding"),
    ("padding in an array of none", {"padding": np.array(3)}, TypeError, "padding"),
    ("padding in a tensor of none", {"padding": tf.constant("SAME")}, TypeError, "padding"),
    ("strides in a floating tensor", {"strides": tf.constant([1.0, 1.0, 1.0, 1.0])}, TypeError, "strides"),
    ("rate 0", {"dilations": [0, 1]}, ValueError, "dilations"),
    ("negative rate", {"dilations": -1}, ValueError, "dilations"),
    ("three rates", {"dilations": [1, 1, 1]}, ValueError, "dilations"),
    ("batch rate", {"dilations": [2, 1, 1, 1]}, ValueError, "dilations"),
    ("floating rate", {"dilations": 2.0}, TypeError, "dilations"),
    ("string rates", {"dilations": "22"}, TypeError, "dilations"),
    ("huge rate", {"dilations": [2**31 - 1, 1]}, ValueError, "dilations"),
    ("other format", {"data_format": "NHCW"}, ValueError, "data_format"),
    ("format of no string", {"data_format": 1}, TypeError, "data_format"),
    ("other lowering", {"lowering": "quick"}, ValueError, "lowering"),
    ("lowering of no string", {"lowering": None}, TypeError, "lowering"),
    ("lowering in a list", {"lowering": ["taps"]}, TypeError, "lowering"),
    ("name of no string", {"name": 3}, TypeError, "name"),
    ("name of no op", {"name": "a b"}, ValueError, "name"),
    ("name with a backslash", {"name": "a\\b"}, ValueError, "name"),
    ("one rate in a list", {"dilations": [2]}, ValueError, "dilations"),
    ("rate that SAME pads too far", {"dilations": [2**30 - 1, 1]}, ValueError, "dilations"),
]


def good(**changes):
    return {"input": X, "filter": W, "strides": [1, 1, 1, 1], "padding": "SAME"} | changes


class BadArgumentTest(unittest.TestCase):
    @parameterized.expand(BAD)
    def test_refused(self, _, changes, kind, argument):
        def traced():
            return tf.function(lambda: depthwise_conv2d(**good(**changes)), autograph=False).get_concrete_function()

        for call in (lambda: depthwise_conv2d(**good(**changes)), traced, lambda: explain(**good(**changes))):
            with self.assertRaises(kind) as caught:
                call()
            message = str(caught.exception)
            form = rf"(?s)^depthwise_conv2d argument `{argument}` must .+, but got .+\. .+\.$"
            self.assertRegex(message.strip(), form)
            self.assertLess(len(message), 1000)

    def test_a_good_call_before_does_not_help_a_bad_one(self):
        depthwise_conv2d(**good(strides=[1, 1, 1, 1]))
        for strides in ([1.0, 1, 1, 1], [True, 1, 1, 1], [1, 1, 1, np.float32(1)]):
            with self.assertRaises(TypeError):
                depthwise_conv2d(**good(strides=strides))


def at_run_time(changes, x=X, w=W, compiled=False, shape=None):
    """Runs the op where x and w have unknown shapes until then."""
    signature = [tf.TensorSpec(shape, tf.float32), tf.TensorSpec(shape, tf.float32)]
    run = tf.function(
        lambda x, w: depthwise_conv2d(**good(input=x, filter=w) | changes),
        input_signature=signature,
        autograph=False,
        jit_compile=compiled,
    )
    return run(x, w)


ANY = (None,) * 4

# Name, changed arguments, input, filter, the shape that is known of them, and what refuses them.
LATE = [
    ("input rank", {}, X[0], W, None, "`input` must have rank 4"),
    ("filter rank", {}, X, W[0], None, "`filter` must have rank 4"),
    ("channels", {}, X, np.ones((3, 3, 3, 1), np.float32), ANY, "`filter` must have as many in_channels"),
    ("one channel", {}, X[..., :1], W, ANY, "`filter` must have as many in_channels"),
    ("no rows", {}, X, W[:0], ANY, "`filter` must have a height of at least 1"),
    ("no columns", {}, X, W[:, :0], ANY, "`filter` must have a width of at least 1"),
    ("span", {"dilations": 2**30}, X, W, ANY, "`dilations` must keep the height of the dilated filter"),
    (
        "padding",
        {"padding": [[0, 0], [2**31 - 3, 0], [0, 0], [0, 0]]},
        X,
        W,
        ANY,
        "`padding` must keep the padded height",
    ),
]


class RunTimeTest(unittest.TestCase):
    @parameterized.expand(LATE)
    def test_refused_with_the_same_text(self, _, changes, x, w, shape, text):
        with self.assertRaises(tf.errors.InvalidArgumentError) as caught:
            at_run_time(changes, x, w, shape=shape)
        self.assertIn(f"depthwise_conv2d argument {text}", str(caught.exception))

    @parameterized.expand(
        [
            *LATE,
            ("an input of rank 5", {}, X[..., None], W, None, "`input` must have rank 4"),
            ("no rows, one column", {}, X, W[:0, :1], ANY, "`filter` must have a height of at least 1"),
        ]
    )
    def test_refused_under_xla_by_an_op_that_is_named_after_the_rule(self, _, changes, x, w, shape, text):
        with self.assertRaisesRegex(tf.errors.InvalidArgumentError, text.replace("`", "").replace(" ", "_")):
            at_run_time(changes, x, w, compiled=True, shape=shape)


class SpellingTest(unittest.TestCase):
    @parameterized.expand(
        [
            ("tuple", {"strides": (1, 2, 2, 1)}),
            ("array", {"strides": np.array([1, 2, 2, 1])}),
            ("array items", {"strides": list(np.array([1, 2, 2, 1]))}),
            ("tensor", {"strides": tf.constant([1, 2, 2, 1])}),
            ("one rate", {"dilations": 1}),
            ("two rates", {"dilations": (1, 1)}),
            ("four rates", {"dilations": [1, 1, 1, 1]}),
            ("rates as an array", {"dilations": np.array([1, 1])}),
            ("format", {"data_format": "NHWC"}),
            ("string of NumPy", {"padding": np.str_("SAME")}),
        ]
    )
    def test_same_record(self, _, changes):
        arguments = dict(strides=[1, 2, 2, 1], padding="SAME", data_format=None, dilations=None)
        plain, again = (canonicalize(X, W, **(arguments | c))[0] for c in ({}, changes))
        self.assertEqual(plain, again)
        self.assertEqual(hash(plain), hash(again))

    def test_padding_of_arrays(self):
        pads = [[0, 0], [1, 2], [3, 4], [0, 0]]
        specs = {canonicalize(X, W, [1] * 4, p, None, None)[0] for p in (pads, np.array(pads), tuple(map(tuple, pads)))}
        self.assertEqual(len(specs), 1)
        self.assertEqual([axis.pads for axis in (specs.copy().pop().rows, specs.pop().cols)], [(1, 2), (3, 4)])
