"""Runs the op on a conformance case in one mode and compares everything it returns with the oracle."""

import numpy as np
import tensorflow as tf
from depthwise.conformance import tolerance
from depthwise.conformance.case import parse
from depthwise.conformance.data import Problem
from depthwise.ops import depthwise_conv2d

MODES = ("eager", "graph", "unknown", "xla", "unknown_xla")
"""unknown: batch, height and width are None while the function is traced. (More, for tests of their own: unknown_filter
and unknown_filter_xla, where the filter's height and width are None too; and unknown_height, unknown_batch_width and so
on, where nothing else is.)"""
ELEMENTARY = ("native", "taps")
"""The lowerings that compute. Portable and island are made of them: what they add is shown on a few cases."""
FIRST = ("value", "input_grad", "filter_grad")


def in_mode(function, mode, case, *shapes):
    """The function, as `mode` runs it. Shapes: of its arguments, the images among them in the case's format."""
    if mode == "eager":
        return function
    signature = None
    if mode.startswith("unknown"):
        dimensions = dict(
            zip(("batch", "height", "width"), (0, 1, 2) if case.format == "NHWC" else (0, 2, 3), strict=True)
        )
        hidden = [i for name, i in dimensions.items() if name in mode] or dimensions.values()
        of_filter = (None, None, *case.filter_shape[2:]) if "filter" in mode else case.filter_shape
        unknown = [
            of_filter if s == case.filter_shape else [None if i in hidden else d for i, d in enumerate(s)]
            for s in shapes
        ]
        signature = [tf.TensorSpec(shape, case.dtype) for shape in unknown]
    return tf.function(function, input_signature=signature, jit_compile=mode.endswith("xla"))


def results(problem, lowering, mode, op=depthwise_conv2d):
    """Value and gradients of the op in one mode, by the names of `Problem.expected`."""
    case = problem.case
    floating = problem.dtype.kind not in "iu"

    def run(x, w, dy):
        if not floating:
            return [op(x, w, **case.arguments(), lowering=lowering)]
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = op(x, w, **case.arguments(), lowering=lowering)
        return [y, *tape.gradient(y, [x, w], dy)]

    shapes = (case.input_shape, case.filter_shape, case.output_shape)
    tensors = [tf.constant(array) for array in (problem.x, problem.w, problem.dy)]
    return dict(zip(FIRST, in_mode(run, mode, case, *shapes)(*tensors), strict=False))


def check(test, notation, lowering, mode, op=depthwise_conv2d):
    """Fails the test unless every result of the case has the oracle's values, within the derived bound."""
    problem = Problem(parse(notation))
    found = results(problem, lowering, mode, op)
    test.assertEqual(len(found), 1 if problem.dtype.kind in "iu" else 3)
    for name, tensor in found.items():
        compare(test, tensor, problem.expected(name), problem.case.dtype, f"{name} [{lowering}, {mode}, {notation}]")


def compare(test, tensor, expected, dtype, where):
    """Fails the test unless the tensor has the expected shape, dtype and values."""
    test.assertEqual(tensor.dtype.name, dtype, where)
    array = tensor.numpy()
    test.assertEqual(array.shape, expected.values.shape, where)
    units = tolerance.error_in_bounds(array, expected.values, expected.bound, dtype)
    test.assertLessEqual(np.max(units, initial=0.0), 1.0, where)
