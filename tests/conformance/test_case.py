"""The notation: every case of a level reads back as itself, and what is no case is refused by name."""

import itertools
import re
import unittest
from pathlib import Path

from depthwise.conformance.case import UNKNOWN, UNKNOWN_IN, Case, parse
from depthwise.conformance.cases import LEVELS, cases
from depthwise.conformance.checks import checks_of
from parameterized import parameterized

README = (Path(__file__).parents[2] / "README.md").read_text()


class NotationTest(unittest.TestCase):
    @parameterized.expand([(level,) for level in LEVELS])
    def test_every_case_reads_back_as_itself(self, level):
        for case in cases(level, ("CPU", "GPU")):
            self.assertEqual(parse(str(case)), case)

    def test_defaults_are_left_out(self):
        self.assertEqual(str(Case((1, 5, 5, 2), (3, 3, 1))), "in=1x5x5x2 filter=3x3x1")

    @parameterized.expand(
        [
            ("filter=3x3x1", "in="),
            ("input=1x5x5x2 filter=3x3x1", "'in', "),
            ("in=1x5x5x2 filter=3x3", "filter"),
            ("in=1x5x-5x2 filter=3x3x1", "input"),
            ("in=1x5x5x2 filter=3x3x1 padding=same", "padding"),
            ("in=1x5x5x2 filter=3x3x1 mode=fast", "mode"),
            ("in=1x5x5x2 filter=3x3x1 color=red", "color"),
            ("in=1x5x5x2 filter=3x3x1 xla", "xla"),
            ("in=1x5x5x2 filter=3x3x1 padding=1,0,-1,0", "padding must be .*at least 0"),
            ("in=1x5x5x2 filter=3x3x1 in=1x5x5x3", "once, got 'in=1x5x5x3'"),
            ("in=1x5x5x2 filter=3x3x1 device=cpu", "device must be .*capitals"),
            ("in=1x5x5x2 filter=3x3x1 mode=xla unknown=C", "unknown must be one of"),
            ("in=1x5x5x2 filter=3x3x1 mode=graph unknown=H", "unknown needs one of the modes .*got mode=graph"),
        ]
    )
    def test_refuses(self, text, name):
        with self.assertRaisesRegex(ValueError, name):
            parse(text)


class TracedTest(unittest.TestCase):
    @parameterized.expand(
        [
            ("mode=graph", [2, 7, 5, 3]),
            ("mode=xla", [2, 7, 5, 3]),
            ("mode=dynamic", [None, None, None, 3]),
            ("mode=dynamic unknown=NW", [None, 7, None, 3]),
            ("mode=xla unknown=H format=NCHW", [2, 3, None, 5]),
        ]
    )
    def test_what_is_unknown_while_the_op_is_traced(self, words, shape):
        case = parse(f"in=2x7x5x3 filter=3x3x1 {words}")
        self.assertEqual(case.traced(case.input_shape), shape)


class CasesTest(unittest.TestCase):
    def test_levels_are_as_large_as_the_readme_says(self):
        """On the CPU; the checks of statistics, which no case has of its own, are in a hundredth."""
        quick, standard = re.search(r"quick` makes ([0-9,]+) checks .* `standard` ([0-9,]+) in", README).groups()
        for level, promised in (("quick", quick), ("standard", standard)):
            made = sum(len(checks_of(case)) for case in cases(level))
            self.assertAlmostEqual(made / int(promised.replace(",", "")), 1, delta=0.01)

    def test_seed_changes_the_generated_cases_and_nothing_else_does(self):
        self.assertEqual(cases("quick", seed=3), cases("quick", seed=3))
        self.assertNotEqual(cases("quick", seed=3), cases("quick", seed=4))

    def test_every_cell_of_the_grid_is_met(self):
        seen = {(c.format, c.padding_kind, c.strides > (1, 1), c.dilations > (1, 1), c.mode) for c in cases("quick")}
        self.assertEqual(len(seen), 2 * 3 * 2 * 2 * 4)
        kinds = {
            (c.format, c.padding_kind, c.strides > (1, 1), c.dilations > (1, 1))
            for c in cases("quick")
            if c.mode == "xla"
        }
        self.assertEqual(len(kinds), 2 * 3 * 2 * 2)

    def test_every_size_is_unknown_by_itself_and_with_others(self):
        seen = {(case.mode, case.unknown) for case in cases("standard")}
        self.assertLessEqual(set(itertools.product(UNKNOWN_IN, UNKNOWN)), seen)

    def test_no_case_is_listed_twice(self):
        self.assertEqual(len(set(cases("standard"))), len(cases("standard")))

    def test_unknown_level_is_refused(self):
        with self.assertRaisesRegex(ValueError, "level"):
            cases("thorough")
