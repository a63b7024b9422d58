"""`pytest --pyargs depthwise.conformance` in a process of its own."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import pytest
from depthwise.conformance.case import parse
from depthwise.conformance.expectations import Known
from depthwise.conformance.process import Limits
from depthwise.conformance.pytest_plugin import Asked
from depthwise.conformance.results import Result

_PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
_PLAIN, _BOTH = "in=1x4x5x2 filter=3x2x2", "in=1x9x9x2 filter=3x3x1 strides=2x2 dilations=2x2"
_ABSENT = """
import os, pathlib
pathlib.Path(f"start-{os.getpid()}").touch()
raise ImportError("no kernels on this machine")
"""
_REFUSES = """
def op(*arguments, **options):
    raise NotImplementedError("nothing here")
"""


class PluginTest(unittest.TestCase):
    def run_on_tensorflow(self, *options, target="tf"):
        cases = [f"--conformance-case={text}" for text in (_PLAIN, _BOTH, _PLAIN + " device=NPU")]
        command = [*_PYTEST, "--pyargs", "depthwise.conformance", f"--conformance-target={target}", *cases, *options]
        with tempfile.TemporaryDirectory() as elsewhere:
            Path(elsewhere, "absent.py").write_text(_ABSENT)
            Path(elsewhere, "refuses.py").write_text(_REFUSES)
            ran = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere)
            self.starts = len([*Path(elsewhere).glob("start-*")])
        return ran

    def test_cases_are_items(self):
        ran = self.run_on_tensorflow()
        self.assertIn("1 failed, 2 passed, 2 skipped", ran.stdout)
        self.assertIn("FAIL tf value", ran.stdout)
        self.assertEqual(ran.returncode, 1)

    def test_a_target_that_cannot_be_had_is_tried_once(self):
        ran = self.run_on_tensorflow(target="absent.py:op")
        self.assertIn("5 errors", ran.stdout)
        self.assertIn("no kernels on this machine", ran.stdout)
        self.assertEqual((ran.returncode, self.starts), (1, 1))

    def test_what_is_no_notation_of_a_case_is_an_error_of_usage(self):
        ran = self.run_on_tensorflow("--conformance-case=in=1x1")
        self.assertIn("argument --conformance-case: case notation: input must be 4 sizes", ran.stderr)
        self.assertEqual(ran.returncode, pytest.ExitCode.USAGE_ERROR)

    def test_a_target_that_refuses_everything_fails(self):
        ran = self.run_on_tensorflow(target="refuses.py:op")
        self.assertIn("1 failed, 4 skipped", ran.stdout)
        self.assertIn("none of the 21 checks of refuses.py:op could be made", ran.stdout)
        self.assertEqual(ran.returncode, 1)

    def test_known_failures_are_expected(self):
        ran = self.run_on_tensorflow("--conformance-expect=tf")
        self.assertIn("2 passed, 2 skipped, 1 xfailed", ran.stdout)
        self.assertEqual(ran.returncode, 0)

    def test_expectations_are_about_statistics_too(self):
        found = [Result("tf", parse(_PLAIN), "statistics:value", "FAIL", detail="biased")]
        known = Known("tf", "it is biased", when="mode == 'eager'", checks=("statistics:value",))
        with self.assertRaisesRegex(pytest.fail.Exception, "biased"):
            Asked("tf", Limits(), []).judge(found)
        with self.assertRaisesRegex(pytest.xfail.Exception, "it is biased"):
            Asked("tf", Limits(), [known]).judge(found)
