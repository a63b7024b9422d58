"""The mutation score counts what it should: a fault that nothing shows survives. All faults: marked slow."""

import unittest
from pathlib import Path

import pytest
from depthwise.conformance import faults
from depthwise.conformance.case import parse
from depthwise.conformance.cases import cases
from depthwise.conformance.mutation import clean, fates
from depthwise.conformance.process import Limits

PLAIN = "in=2x4x5x2 filter=3x2x2"
_FEW = ["fault:filter-rows-flipped", "fault:small-noise", "fault:dilations-dropped"]


class MutationTest(unittest.TestCase):
    def test_there_are_as_many_faults_as_the_readme_says(self):
        readme = (Path(__file__).parents[2] / "README.md").read_text()
        self.assertIn(f"the {len(faults.names())} faults planted in the op", readme)
        self.assertLessEqual(set(faults.HANGING), set(faults.names()))

    def test_a_fault_survives_cases_that_cannot_show_it(self):
        found = fates(_FEW, [parse(PLAIN)], jobs=1, limits=Limits(), notify=lambda _: None)
        self.assertEqual([fate.caught_by is not None for fate in found], [True, True, False])

    @pytest.mark.slow
    def test_every_fault_is_caught_at_quick(self):
        limits = Limits(seconds=300)
        good = clean(cases("quick"), jobs=2, limits=limits, notify=lambda _: None)
        found = fates(faults.names(), good, jobs=2, limits=limits, notify=lambda _: None)
        self.assertEqual([fate.fault for fate in found if fate.caught_by is None], [])
