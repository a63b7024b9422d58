"""Integer arithmetic, against windows enumerated one by one."""

import itertools
import unittest

import tensorflow as tf
from depthwise.ops.geometry import Axis, at_least_zero, ceil_div, common_phases, input_runs, output_runs

AXES = [
    Axis(size, taps, stride, rate, padding)
    for size, taps, stride, rate in itertools.product(range(6), (1, 2, 3), (1, 2, 3), (1, 2))
    for padding in ("SAME", "VALID", (0, 3), (2, 1))
]


def windows(axis):
    """For each output, the pairs (tap, input sample) of its window that lie on the input."""
    if axis.padding == "SAME":
        # As TensorFlow documents it: as many outputs as strides fit, the smaller half of the padding first.
        outputs = -(-axis.size // axis.stride)
        before = max((outputs - 1) * axis.stride + axis.rate * (axis.taps - 1) + 1 - axis.size, 0) // 2
    else:
        before, after = (0, 0) if axis.padding == "VALID" else axis.padding
        starts = range(-before, axis.size + after, axis.stride)
        outputs = sum(start + axis.rate * (axis.taps - 1) < axis.size + after for start in starts)
    return [
        [(t, p) for t in range(axis.taps) if 0 <= (p := axis.stride * i + axis.rate * t - before) < axis.size]
        for i in range(outputs)
    ]


class AxisTest(unittest.TestCase):
    def test_output_and_what_taps_meet(self):
        for axis in AXES:
            expected = windows(axis)
            self.assertEqual(axis.output, len(expected), axis)
            for tap in range(axis.taps):
                first, stop = axis.outputs_of_tap(tap)
                met = [(i, p) for i, window in enumerate(expected) for t, p in window if t == tap]
                self.assertEqual(met, [(i, axis.input_of_tap(tap, i)) for i in range(first, stop)], axis)

    def test_tensors_give_what_integers_give(self):
        for axis in AXES[::7]:
            tensors = Axis(tf.constant(axis.size), tf.constant(axis.taps), axis.stride, axis.rate, axis.padding)
            for name in ("span", "output", "reach"):
                self.assertEqual(int(getattr(tensors, name)), getattr(axis, name), (name, axis))
            self.assertEqual(tuple(map(int, tensors.pads)), axis.pads, axis)

    def test_output_runs_cover_the_windows(self):
        for axis in AXES:
            found = [[] for _ in range(axis.output)]
            for run in output_runs(axis):
                for i in range(run.start, run.stop):
                    found[i] += [(t, begin + run.step * (i - run.start)) for t, begin in run.terms]
            self.assertEqual(found, windows(axis), axis)

    def test_input_runs_cover_the_windows_backwards(self):
        for axis in AXES:
            if axis.stride > 1:
                continue
            expected = {(p, t, i) for i, window in enumerate(windows(axis)) for t, p in window}
            found = set()
            for run in input_runs(axis):
                for p in range(run.start, run.stop):
                    found.update((p, t, begin + p - run.start) for t, begin in run.terms)
            self.assertEqual(found, expected, axis)

    def test_phases_of_an_axis_are_undilated_with_one_stride(self):
        pairs = list(itertools.product((1, 2, 3, 4), (1, 2, 3, 6)))
        for (s1, r1), (s2, r2) in itertools.product(pairs, pairs):
            rows, cols = Axis(9, 3, s1, r1, "SAME"), Axis(9, 3, s2, r2, "SAME")
            for axis, phases in zip((rows, cols), common_phases(rows, cols), strict=True):
                self.assertEqual(axis.stride * phases.count, axis.rate * phases.stride_within)
            a, b = common_phases(rows, cols)
            self.assertEqual(a.stride_within, b.stride_within)

    def test_phases_that_are_padded_like_the_axis_read_the_same_samples(self):
        """Sample m of phase r is sample r + rate*m of the axis; SAME puts (taps - 1) // 2 samples before it."""
        alike = set()
        for size, taps, stride, rate in itertools.product(range(1, 10), range(1, 6), (1, 2), (1, 2, 3)):
            axis = Axis(size, taps, stride, rate, "SAME")
            if common_phases(axis, axis)[0].padding == "SAME":
                alike.add((taps % 2, stride, rate))
                for p, window in enumerate(windows(axis)):
                    r, m = p % rate, p // rate
                    reads = [(t, r + rate * (m + t - (taps - 1) // 2)) for t in range(taps)]
                    self.assertEqual([(t, i) for t, i in reads if 0 <= i < size], list(window), axis)
        self.assertEqual(alike, {(0, 1, 1), (1, 1, 1), (1, 1, 2), (1, 1, 3)})
        explicit, same = Axis(9, 3, 1, 2, (2, 2)), Axis(9, 3, 1, 2, "SAME")
        for rows, cols in ((explicit, same), (same, explicit)):
            self.assertEqual([phases.padding for phases in common_phases(rows, cols)], ["VALID", "VALID"])


class IntegerTest(unittest.TestCase):
    def test_at_least_zero_and_ceil_div(self):
        extremes = (-(2**31) + 1, -7, -1, 0, 1, 2, 7, 2**30, 2**31 - 1)
        for n in extremes:
            self.assertEqual(at_least_zero(n), max(n, 0))
            self.assertEqual(int(at_least_zero(tf.constant(n))), max(n, 0))
        for n, d in itertools.product(range(9), range(1, 5)):
            self.assertEqual(ceil_div(n, d), (n + d - 1) // d)
