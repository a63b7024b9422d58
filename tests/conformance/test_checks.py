"""Each check goes red on results that are wrong in the one way that it is there for, and on no others."""

import unittest

import numpy as np
from depthwise.conformance.case import parse
from depthwise.conformance.checks import CHECKS, Evidence, Spread, checks_of, groups_of, results_of, statistics
from depthwise.conformance.data import Problem
from depthwise.conformance.malformed import MALFORMED
from depthwise.conformance.targets.base import Outputs
from parameterized import parameterized

CASE = parse("in=2x5x6x3 filter=3x2x2 strides=2x1 order=2")


def right(problem):
    """What a correct target returns, computed by the oracle."""
    arrays = {name: problem.expected(name).values.astype(problem.dtype) for name in CHECKS if name in NUMBERS}
    return Outputs(arrays, problem.case.output_shape, [problem.x.copy(), problem.w.copy()])


NUMBERS = results_of(checks_of(CASE))


def red(first, second=None):
    """The names of the checks that fail."""
    problem = Problem(CASE)
    evidence = Evidence(problem, NUMBERS, first, second or right(problem))
    return {name for name in checks_of(CASE) if not CHECKS[name](evidence).holds}


class ChecksTest(unittest.TestCase):
    def test_correct_results_pass(self):
        self.assertEqual(red(right(Problem(CASE))), set())

    @parameterized.expand([(name,) for name in NUMBERS])
    def test_one_wrong_element(self, name):
        outputs = right(Problem(CASE))
        outputs.arrays[name].reshape(-1)[7] += 1e-3
        self.assertEqual(red(outputs), {name, "determinism"})

    @parameterized.expand([(name,) for name in NUMBERS])
    def test_swallowed_or_invented_nan(self, name):
        outputs = right(Problem(CASE))
        outputs.arrays[name].reshape(-1)[7] = np.nan
        self.assertIn(name, red(outputs))

    def test_missing_gradient(self):
        outputs, again = right(Problem(CASE)), right(Problem(CASE))
        del outputs.arrays["input_grad"], again.arrays["input_grad"]
        self.assertEqual(red(outputs, again), {"input_grad"})

    def test_wrong_shape(self):
        outputs = right(Problem(CASE))
        outputs.arrays["value"] = outputs.arrays["value"][:, :-1]
        self.assertEqual(red(outputs), {"value", "shape", "determinism"})

    @parameterized.expand([((2, 3, 6, 5),), ((2, 3, 6),), ((None, 3, 7, None),)])
    def test_wrong_static_shape(self, shape):
        outputs = right(Problem(CASE))
        outputs.static_shape = shape
        self.assertEqual(red(outputs), {"shape"})

    @parameterized.expand([((None, None, None, 6),), ((2, 3, 6, 6),)])
    def test_compatible_static_shape(self, shape):
        outputs = right(Problem(CASE))
        outputs.static_shape = shape
        self.assertEqual(red(outputs), set())

    def test_wrong_dtype(self):
        outputs, again = right(Problem(CASE)), right(Problem(CASE))
        for one in (outputs, again):
            one.arrays["filter_grad"] = one.arrays["filter_grad"].astype(np.float64)
        self.assertEqual(red(outputs, again), {"dtype"})

    @parameterized.expand([(0,), (1,)])
    def test_overwritten_input(self, which):
        outputs = right(Problem(CASE))
        outputs.inputs_after[which].reshape(-1)[0] += 1
        self.assertEqual(red(outputs), {"inputs_untouched"})

    def test_integer_data_tolerate_nothing(self):
        problem = Problem(parse("in=1x6x6x2 filter=3x3x1 dtype=bfloat16 data=integer"))
        for name in ("value", "input_grad", "filter_grad"):
            self.assertEqual(problem.expected(name).bound.max(), 0.0)
            exact = problem.expected(name).values
            np.testing.assert_array_equal(exact, exact.astype(problem.dtype).astype(np.float64))

    def test_special_data_hold_nan_and_both_infinities(self):
        problem = Problem(parse("in=1x6x6x2 filter=3x3x1 data=special"))
        for array in (problem.x, problem.dy):
            self.assertTrue(np.isnan(array).any() and np.isposinf(array).any() and np.isneginf(array).any())

    def test_nan_is_allowed_where_a_cotangent_that_is_not_finite_lies_over_padding_and_only_there(self):
        problem = Problem(parse("in=1x4x4x1 filter=3x3x1 data=special"))
        problem.dy[...] = 1.0
        problem.dy[0, 0, 1, 0] = np.inf  # in the first row: its upper taps lie over padding
        expected = problem.expected("filter_grad")
        self.assertEqual(expected.nan_too[..., 0, 0].tolist(), [[True] * 3, [False] * 3, [False] * 3])

    @parameterized.expand(
        [
            ("value", "", [True, False, False, False]),
            ("input_grad", "", [False, False, False, True]),
            ("input_grad", "strides=2x1", [True] * 4),
            ("filter_grad", "", [False] * 3),
        ]
    )
    def test_so_it_is_where_an_element_of_the_filter_does(self, name, words, rows):
        problem = Problem(parse(f"in=1x4x4x2 filter=3x3x1 data=special-filter format=NCHW {words}"))
        self.assertFalse(np.isfinite(problem.w).all())
        problem.w[...] = 1.0
        problem.w[0, 1, 1, 0] = np.nan  # the first tap: over padding in the first row, beyond the output in the last
        nan_too = problem.expected(name).nan_too
        if name == "filter_grad":
            nan_too = nan_too.transpose(3, 2, 0, 1)
        self.assertEqual(nan_too[0, 1, :, 1].tolist(), rows)
        self.assertFalse(nan_too[0, 0].any())

    @parameterized.expand(["in=0x4x5x3", "in=2x4x5x0", "in=2x4x5x1", "in=2x4x5x3 dtype=float64", "in=2x0x5x3"])
    def test_what_is_malformed_is_so_of_any_call(self, words):
        problem = Problem(parse(f"{words} filter=3x3x2"))
        valid = {"input": problem.x, "filter": problem.w, **problem.case.arguments(), "dilations": [1, 1]}
        for name, broken in MALFORMED.items():
            call = broken(valid)
            kinds = [{key: (np.shape(a[key]), a[key].dtype) for key in ("input", "filter")} for a in (valid, call)]
            others = [{key: a[key] for key in valid if key not in ("input", "filter")} for a in (valid, call)]
            self.assertTrue(kinds[0] != kinds[1] or others[0] != others[1], name)


class GroupsTest(unittest.TestCase):
    def test_groups_hold_every_check_once(self):
        names = checks_of(CASE)
        self.assertEqual(sorted(name for members, _ in groups_of(names) for name in members), sorted(names))


class StatisticsTest(unittest.TestCase):
    @staticmethod
    def spread(errors):
        return Spread(errors.size, float((errors**2).sum()), float((errors**4).sum()), float(errors.sum()))

    def test_correct_rounding_passes(self):
        errors = np.random.default_rng(0).uniform(-1.7, 1.7, 20000)
        self.assertTrue(statistics(self.spread(errors)).holds)

    def test_errors_twice_too_large_fail(self):
        errors = np.random.default_rng(0).normal(scale=2, size=2000)
        self.assertIn("root mean square", statistics(self.spread(errors)).detail)

    def test_truncation_fails(self):
        errors = -np.random.default_rng(0).uniform(0, 1, 2000)
        self.assertIn("along the value's sign", statistics(self.spread(errors)).detail)

    def test_spreads_add(self):
        self.assertEqual(Spread(1, 2.0, 3.0, 4.0) + Spread(1, 1.0, 1.0, 1.0), Spread(2, 3.0, 4.0, 5.0))
