"""How the op sees where it stands."""

import unittest

import tensorflow as tf
from depthwise.ops import mode
from depthwise.ops.mode import current_mode
from tracing import traced


class CompilationTest(unittest.TestCase):
    """How TensorFlow shows that a function will be compiled. A release that changes it must be noticed."""

    def test_the_imports_are_there(self):
        self.assertEqual(mode.should_invoke_op_callbacks.__module__, "tensorflow.python.framework.op_callbacks")
        self.assertEqual(mode.GraphOrParentsInXlaContext.__module__, "tensorflow.python.ops.control_flow_util")

    def test_seen(self):
        self.assertEqual(current_mode(), "eager")
        self.assertEqual(traced(current_mode), "graph")
        self.assertEqual(traced(current_mode, jit_compile=True), "xla")

    def test_seen_for_export(self):
        with mode.without_islands():
            seen = current_mode(), traced(current_mode), traced(current_mode, jit_compile=True)
        self.assertEqual(seen, ("eager", "export", "xla"))
        self.assertEqual(traced(current_mode), "graph")

    def test_compiled_branches_are_seen(self):
        def in_a_branch(of):
            seen = []
            tf.cond(tf.random.uniform([]) < 2, lambda: seen.append(of(mode.is_in_compiled_branch)) or 0.0, lambda: 0.0)
            return seen[0]

        def at_once(function):
            return function()

        for of in (at_once, traced):
            self.assertTrue(traced(lambda of=of: in_a_branch(of), jit_compile=True))
            self.assertFalse(traced(lambda of=of: in_a_branch(of)))
        self.assertFalse(traced(mode.is_in_compiled_branch, jit_compile=True))
        self.assertEqual(mode.CondBranchFuncGraph.__module__, "tensorflow.python.ops.control_flow_v2_func_graphs")

    def test_seen_from_inner_functions_and_control_flow(self):
        def in_a_function():
            return traced(current_mode)

        def in_a_branch():
            seen = []
            tf.cond(tf.random.uniform([]) < 2, lambda: seen.append(current_mode()) or 0.0, lambda: 0.0)
            return seen[0]

        def in_a_loop():
            seen = []
            tf.while_loop(lambda i: i < 1, lambda i: seen.append(current_mode()) or i + 1, [tf.constant(0)])
            return seen[0]

        for function in (in_a_function, in_a_branch, in_a_loop):
            self.assertEqual(traced(function, jit_compile=True), "xla", function.__name__)
            self.assertEqual(traced(function), "graph", function.__name__)

    def test_seen_where_an_inner_function_alone_is_compiled(self):
        self.assertEqual(traced(lambda: traced(current_mode, jit_compile=True)), "xla")
