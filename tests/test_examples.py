"""The examples run as they stand, and fail when something is wrong."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

FAULTY = """
import tensorflow as tf

def shifted(input, filter, strides, padding, data_format=None, dilations=None, name=None):
    return tf.nn.depthwise_conv2d(input, filter, strides, padding, data_format, dilations) + 1
"""


def run(name, *arguments):
    """The finished process of an example."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


class QuickstartTest(unittest.TestCase):
    def test_runs_and_ends_with_conformance(self):
        process = run("quickstart.py", "--max-cases", "10")
        self.assertEqual(process.returncode, 0, process.stdout[-2000:] + process.stderr[-2000:])
        self.assertIn("identical predictions", process.stdout)
        self.assertIn("PASS", process.stdout)

    @pytest.mark.slow
    def test_fails_when_conformance_does(self):
        with tempfile.TemporaryDirectory() as folder:
            faulty = Path(folder) / "faulty.py"
            faulty.write_text(FAULTY)
            process = run("quickstart.py", "--max-cases", "10", "--target", f"{faulty}:shifted")
        self.assertEqual(process.returncode, 1, process.stdout[-2000:] + process.stderr[-2000:])
        self.assertIn("identical predictions", process.stdout)
