"""Shrinking ends at a smaller case that fails likewise, and its script shows the failure by itself."""

import math
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from depthwise.conformance import repro
from depthwise.conformance.case import MODES, parse
from depthwise.conformance.cases import cases
from depthwise.conformance.checks import ON_EVERY_RESULT, checks_of, results_of
from depthwise.conformance.process import Limits
from depthwise.conformance.results import Result, printable
from depthwise.conformance.run import run
from depthwise.conformance.shrink import _smaller, shrink
from parameterized import parameterized

# Refuses in eager mode alone.
LENIENT = """
import tensorflow as tf

def depthwise(input, filter, strides, padding, data_format=None, dilations=None, name=None):
    if tf.executing_eagerly():
        raise ValueError(strides)
    return input
"""

# One error, and below a stride of 3 another.
RAISES = """
def op(x, w, strides, *arguments, **options):
    raise (RuntimeError if strides[1] < 3 else ValueError)(f"stride {strides[1]}")
"""

# One makes a mistake in every third call, the other forms gradients from what the last call left.
REMEMBERS = """
import tensorflow as tf

calls = []

def output(x, w, strides, padding, data_format=None, dilations=None):
    calls.append(None)
    return tf.nn.depthwise_conv2d(x, w, strides, padding, data_format, dilations) + float(len(calls) % 3 == 1)

@tf.custom_gradient
def gradient(x, w, **arguments):
    calls[:] = [x]
    y = tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")

    def backward(dy):
        dw = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=calls[0], filter_sizes=w.shape, out_backprop=dy, strides=[1, 1, 1, 1], padding="SAME"
        )
        return tf.zeros_like(x), dw

    return y, backward
"""

# The output is right; what is wrong is the filter's gradient.
WRONG_GRADIENT = """
import tensorflow as tf

@tf.custom_gradient
def once(gradient):
    def again(_):
        raise RuntimeError("there is no second derivative")
    return gradient, again

def depthwise(input, filter, strides, padding, data_format=None, dilations=None, name=None):
    @tf.custom_gradient
    def op(x, w):
        y = tf.nn.depthwise_conv2d(x, w, strides, padding, data_format, dilations)
        return y, lambda dy: (tf.zeros_like(x), {gradient})
    return op(input, filter)
"""


def _size(case):
    return math.prod(case.input + case.filter)


class ShrinkTest(unittest.TestCase):
    def test_a_failure_shrinks_and_its_script_shows_it(self):
        case = parse("in=2x9x8x3 filter=3x2x2 strides=2x2 dilations=2x1 padding=1,0,2,1 format=NCHW mode=graph seed=4")
        stock = Result("tf", case, "value", "FAIL")
        small = shrink(stock, Limits())
        self.assertLess(_size(small.case), _size(case))
        self.assertEqual((small.case.mode, small.case.format), ("eager", "NHWC"))
        with tempfile.TemporaryDirectory() as folder:
            path = repro.write(Path(folder), small)
            self.assertNotIn("depthwise.", path.read_text())
            ran = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
        self.assertEqual(ran.returncode, 1, ran.stderr)

    def test_whatever_is_tried_is_a_case(self):
        tried = [smaller for case in cases("quick") for smaller in _smaller(case)]
        self.assertEqual([parse(str(case)) for case in tried], tried)

    def test_where_nothing_smaller_fails_the_case_stays(self):
        case = parse("in=1x4x5x2 filter=3x2x2")
        failure = Result("tf", case, "value", "FAIL")
        self.assertEqual(shrink(failure, Limits()), failure)

    def test_another_error_is_another_failure(self):
        case = parse("in=1x5x5x1 filter=2x2x1 strides=4x1")
        with tempfile.TemporaryDirectory() as folder:
            module = Path(folder, "raises.py")
            module.write_text(RAISES)
            failure = Result(f"{module}:op", case, "value", "FAIL", detail="raised ValueError: stride 4", raised=True)
            small = shrink(failure, Limits())
        self.assertEqual((small.case.strides, small.detail), ((3, 1), "raised ValueError: stride 3"))
        self.assertIn(small.detail, repro.script(small))


class ScriptTest(unittest.TestCase):
    def test_a_script_finds_the_module_of_a_target_and_runs_it_in_the_mode_that_failed(self):
        case = parse("in=2x5x4x2 filter=3x2x2 bad=strides-zero mode=graph")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "lenient.py").write_text(LENIENT)
            failure = Result("lenient:depthwise", case, "refusal", "FAIL")
            path = repro.write(Path(folder, "repros"), failure)
            ran = subprocess.run([sys.executable, str(path)], cwd=folder, capture_output=True, text=True)
        self.assertEqual(ran.returncode, 1)
        self.assertIn("but should refuse strides-zero", ran.stderr)

    @parameterized.expand([("output", "determinism"), ("gradient", "filter_grad")])
    def test_a_script_calls_what_remembers_earlier_calls_as_the_suite_does(self, function, check):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "remembers.py")
            file.write_text(REMEMBERS)
            found = run([f"{file}:{function}"], [parse("in=2x5x4x2 filter=3x2x2")], jobs=1, reference=None)
            result = next(result for result in found.results if result.check == check)
            self.assertEqual(result.outcome, "FAIL")
            path = repro.write(Path(folder), result)
            ran = subprocess.run([sys.executable, str(path)], cwd=folder, capture_output=True, text=True)
        self.assertEqual(ran.returncode, 1, ran.stdout + ran.stderr)

    @parameterized.expand(
        [
            ("determinism", "tf.random.normal(w.shape)", "filter_grad differs"),
            ("shape", "w[..., :1]", "filter_grad's shape is"),
            ("dtype", "tf.cast(w, tf.float64)", "filter_grad's dtype is float64"),
            ("dtype", "once(tf.cast(w * tf.norm(dy), tf.float64))", "filter_grad's dtype is float64", 2),
        ]
    )
    def test_a_script_shows_what_a_gradient_alone_fails(self, check, gradient, words, order=1):
        case = parse(f"in=2x5x4x2 filter=3x2x2 order={order} seed=1")
        with tempfile.TemporaryDirectory() as folder:
            module = Path(folder, "wrong.py")
            module.write_text(WRONG_GRADIENT.format(gradient=gradient))
            target = f"{module}:depthwise"
            results = run([target], [case], jobs=1, reference=None).results
            failure = next(result for result in results if (result.check, result.outcome) == (check, "FAIL"))
            small = shrink(failure, Limits())
            script = repro.script(small)
            with self.assertRaisesRegex(SystemExit, words):
                exec(compile(script, "repro.py", "exec"), {})
        self.assertLess(_size(small.case), _size(case))

    def test_a_script_can_be_written_for_every_check_of_every_kind_of_case(self):
        kinds = {(c.mode, c.format, c.dtype, c.data, c.order, c.bad, type(c.padding)): c for c in cases("quick")}
        for case in kinds.values():
            for check in checks_of(case):
                one = ("filter_grad",) if check in ON_EVERY_RESULT else ()
                for shown_by in {(), one, results_of(checks_of(case))}:
                    text = repro.script(Result("tf", case, check, "FAIL", shown_by=shown_by))
                    compile(text, "repro.py", "exec")

    def test_a_script_can_be_written_of_whatever_a_target_says(self):
        said = printable('cannot open """C:\\Users\\new\\x.bin""", \x1b[31m\0 \udcff \\')
        failure = Result("tf", parse("in=1x3x3x1 filter=2x2x1"), "value", "FAIL", detail=said)
        with tempfile.TemporaryDirectory() as folder:
            compile(repro.write(Path(folder), failure).read_text(), "repro.py", "exec")

    @parameterized.expand(
        [
            ("in=2x5x4x2 filter=3x2x2 strides=2x2", "value"),
            ("in=2x5x4x2 filter=3x2x2 format=NCHW dtype=bfloat16", "value"),
            ("in=2x5x4x2 filter=3x2x2 padding=1,0,2,1 mode=dynamic", "input_grad"),
            ("in=2x5x4x2 filter=3x2x2 mode=dynamic unknown=H", "shape"),
            ("in=2x5x4x2 filter=3x2x2 mode=xla unknown=NW", "filter_grad"),
            ("in=2x5x4x2 filter=3x2x2 data=integer dtype=float16 mode=graph", "filter_grad"),
            ("in=2x5x4x2 filter=3x2x2 order=2", "dw_by_cotangent"),
            ("in=2x5x4x2 filter=3x2x2 order=2 dilations=2x1", "dx_by_filter"),
            ("in=2x5x4x2 filter=3x2x2 data=special", "value"),
            *((f"in=2x5x4x2 filter=3x2x2 order=2 mode={mode}", check) for mode in MODES for check in ON_EVERY_RESULT),
            *((f"in=2x5x4x2 filter=3x2x2 bad=strides-zero mode={mode}", "refusal") for mode in MODES),
        ]
    )
    def test_a_script_says_that_what_is_right_holds(self, text, check):
        case = parse(text)
        # Not the stock op for half types: without oneDNN it accumulates in them, and the script shows that it is wrong.
        target = "depthwise" if "float16" in text else "tf"
        shown_by = results_of(checks_of(case)) if check in ON_EVERY_RESULT else ()
        script = repro.script(Result(target, case, check, "FAIL", shown_by=shown_by))
        try:
            exec(compile(script, "repro.py", "exec"), {})
        except SystemExit as error:
            self.fail(str(error))
