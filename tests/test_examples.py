"""The examples run as they stand, and fail when something is wrong. Most are slow: CI runs them by name.

So do those of the README and of the docstrings.
"""

import doctest
import importlib
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import pytest
from parameterized import parameterized

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
LONGER = ("quickstart.py", "check_your_own.py")
README = (ROOT / "README.md").read_text()
# By name: `depthwise` is what the first three are installed as.
DOCUMENTED = {
    ".".join((*package, *path.relative_to(ROOT).with_suffix("").parts)): path.read_text().count(">>> ")
    for package, folder in (
        (("depthwise",), "ops"),
        (("depthwise",), "layers"),
        (("depthwise",), "conformance"),
        ((), "benchmarks"),
    )
    for path in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in path.read_text()
}
"""The modules with examples, and how many lines of these begin one."""

FAULTY = """
import tensorflow as tf

def shifted(input, filter, strides, padding, data_format=None, dilations=None, name=None):
    return tf.nn.depthwise_conv2d(input, filter, strides, padding, data_format, dilations) + 1
"""


def run(name, *arguments):
    """The finished process of an example."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
class QuickstartTest(unittest.TestCase):
    def test_runs_and_ends_with_conformance(self):
        process = run("quickstart.py", "--max-cases", "10")
        self.assertEqual(process.returncode, 0, process.stdout[-2000:] + process.stderr[-2000:])
        self.assertIn("identical predictions", process.stdout)
        self.assertIn("PASS", process.stdout)

    def test_fails_when_conformance_does(self):
        with tempfile.TemporaryDirectory() as folder:
            faulty = Path(folder) / "faulty.py"
            faulty.write_text(FAULTY)
            process = run("quickstart.py", "--max-cases", "10", "--target", f"{faulty}:shifted")
        self.assertEqual(process.returncode, 1, process.stdout[-2000:] + process.stderr[-2000:])
        self.assertIn("identical predictions", process.stdout)


class ExamplesTest(unittest.TestCase):
    def assert_runs(self, name, promise, *arguments):
        process = run(name, *arguments)
        self.assertEqual(process.returncode, 0, process.stdout[-2000:] + process.stderr[-2000:])
        self.assertIn(promise, process.stdout)

    @parameterized.expand(
        [
            ("serve_savedmodel.py", "depthwise imported: False"),
            ("segmentation_head.py", "rows not yet scanned change what is said of the first: False"),
            ("finetune_mobilenet.py", "17 layers converted"),
            ("finetune_mobilenet.py", "predictions identical", "--jit"),
            ("check_your_own.py", "PASS"),
        ]
    )
    @pytest.mark.slow
    def test_runs(self, name, promise, *arguments):
        self.assert_runs(name, promise, *arguments)

    @parameterized.expand([path.name for path in sorted(EXAMPLES.glob("*.py"))])
    def test_is_short(self, name):
        self.assertLess(len((EXAMPLES / name).read_text().splitlines()), 75 if name in LONGER else 60)


class ReadmeTest(unittest.TestCase):
    @parameterized.expand(enumerate(re.findall(r"```python\n(.*?)```", README, re.DOTALL)))
    def test_prints_what_it_says(self, _, block):
        ran = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran.stderr[-2000:])
        said = re.findall(r"^ *print\(.*\)  # ([(\d].*)$", block, re.MULTILINE)
        self.assertTrue(said)
        self.assertLessEqual(set(said), set(ran.stdout.splitlines()))


class DocstringTest(unittest.TestCase):
    @parameterized.expand(DOCUMENTED.items())
    def test_runs(self, module, count):
        results = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
        self.assertEqual(results.failed, 0)
        self.assertEqual(results.attempted, count)

    def test_every_layer_and_the_op_have_one(self):
        documented = {
            f"depthwise.layers.{name}" for name in ("conv2d", "convert", "depthwise_conv2d", "separable_conv2d")
        }
        self.assertLessEqual(documented | {"depthwise.ops.depthwise"}, set(DOCUMENTED))
