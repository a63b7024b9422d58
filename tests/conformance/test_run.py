"""Runs with real worker processes: verdicts, crashes, hangs, devices that are absent, exit status."""

import contextlib
import functools
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from depthwise.conformance import targets
from depthwise.conformance.case import parse
from depthwise.conformance.cli import main, parser, selected
from depthwise.conformance.malformed import MALFORMED
from depthwise.conformance.process import Limits
from depthwise.conformance.run import run
from parameterized import parameterized

PLAIN = "in=1x4x5x2 filter=3x2x2"
UNEQUAL = "in=1x4x5x2 filter=3x2x2 strides=2x1"
BOTH = "in=1x9x9x2 filter=3x3x1 strides=2x2 dilations=2x2"

TARGETS = """
import os, time
import tensorflow as tf

def op(x, w, strides, padding, data_format="NHWC", dilations=None):
    if list(strides) == [1, 2, 1, 1]:
        os.abort()
    if w.shape[3] == 3:
        time.sleep(1000)
    if w.shape[3] == 4:
        raise NotImplementedError("four is too many")
    if w.shape[3] == 5:
        print("not of the protocol")
        filler = [bytearray(2**28) for _ in range(40)]
    return tf.nn.depthwise_conv2d(x, w, strides, padding, data_format, dilations)
"""

# Right, in eager mode; what it does to its process is not the suite's to suffer.
UNRULY = """
import sys
import numpy as np
import tensorflow as tf
from depthwise.ops import depthwise_conv2d

tf.config.run_functions_eagerly(True)
np.seterr(all="raise")

def op(x, w, strides, padding, data_format=None, dilations=None):
    assert not sys.stdin.read()
    if strides[1] == 3:
        raise RuntimeError("cannot open \\x1b[31m \\udcff.so")
    y = depthwise_conv2d(x, w, strides, padding, data_format, dilations)
    return y if tf.executing_eagerly() else 2 * y
"""


def outcomes(found, target):
    return {(str(r.case), r.check): r.outcome for r in found.results if r.target == target and not r.statistical}


class RunTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.file = Path(cls.folder.name) / "custom.py"
        cls.file.write_text(TARGETS)
        cls.target = f"{cls.file}:op"

    def test_a_lost_worker_is_an_outcome_and_the_run_goes_on(self):
        # Integers, which have no gradients, cost one process and not one for each result.
        crash, memory = UNEQUAL + " dtype=int32", PLAIN.replace("x2x2", "x2x5") + " dtype=int32"
        texts = [crash, PLAIN.replace("x2x2", "x2x3"), memory, PLAIN.replace("x2x2", "x2x4")]
        limits = Limits(seconds=10, memory=2 * 2**30)
        found = run([self.target], [parse(t) for t in [*texts, PLAIN]], jobs=2, limits=limits, reference=None)
        results = outcomes(found, self.target)
        for text, outcome in zip(texts, ("CRASH", "TIMEOUT", "CRASH", "UNSUPPORTED"), strict=True):
            self.assertEqual({o for (case, _), o in results.items() if case == text}, {outcome}, text)
        self.assertEqual({o for (case, _), o in results.items() if case == PLAIN}, {"PASS"})
        self.assertEqual("SIGABRT", next(r for r in found.results if str(r.case) == crash).detail)
        self.assertIn("memory", next(r for r in found.results if str(r.case) == memory).detail)

    def test_what_a_target_does_to_its_process_changes_no_verdict(self):
        file = Path(self.folder.name) / "unruly.py"
        file.write_text(UNRULY)
        # Of the bounds of these numbers one is less than the least normal float64.
        right = "in=2x6x8x1 filter=2x1x2 strides=2x3 padding=VALID dtype=float64 seed=973"
        texts = [right, PLAIN + " mode=graph", PLAIN + " strides=3x1"]
        found = run([f"{file}:op"], [parse(text) for text in texts], jobs=1, reference=None)
        self.assertEqual({r.outcome for r in found.results if str(r.case) == right}, {"PASS"})
        values = {str(r.case): r for r in found.results if r.check == "value"}
        self.assertEqual([values[text].outcome for text in texts[1:]], ["FAIL", "FAIL"])
        self.assertIn("should be", values[texts[1]].detail)
        self.assertEqual(values[texts[2]].detail, r"raised RuntimeError: cannot open \x1b[31m \udcff.so")

    def test_a_crash_is_seen_though_what_was_started_lives_on(self):
        file, mark = Path(self.folder.name) / "parent.py", Path(self.folder.name) / "child"
        file.write_text(
            "import os, pathlib, time\n"
            "def op(*arguments, **options):\n"
            "    child = os.fork()  # which has all pipes of its parent\n"
            "    if not child:\n"
            "        time.sleep(300)\n"
            f"    pathlib.Path({str(mark)!r}).write_text(str(child))\n"
            "    os.abort()\n"
        )
        case = parse(PLAIN + " dtype=int32")
        found = run([f"{file}:op"], [case], jobs=1, limits=Limits(seconds=30), reference=None)
        self.assertEqual({(r.outcome, r.detail) for r in found.results}, {("CRASH", "SIGABRT")})
        with self.assertRaises(ProcessLookupError):
            for _ in range(50):
                os.kill(int(mark.read_text()), 0)
                time.sleep(0.1)

    def test_a_crash_in_one_result_leaves_the_others_judged(self):
        file = Path(self.folder.name) / "gradient.py"
        file.write_text(
            "import os\nimport tensorflow as tf\n"
            "@tf.custom_gradient\ndef through(w):\n    return w, lambda _: os.abort()\n"
            "def op(x, w, *rest, **more):\n    return tf.nn.depthwise_conv2d(x, through(w), *rest, **more)\n"
        )
        found = run([f"{file}:op"], [parse(PLAIN)], jobs=1, reference=None)
        results = {check: outcome for (_, check), outcome in outcomes(found, f"{file}:op").items()}
        for gradient in ("input_grad", "filter_grad"):  # formed by one backward pass, in which it aborts
            self.assertEqual(results.pop(gradient), "CRASH")
        self.assertEqual(set(results.values()), {"PASS"})

    def test_the_reference_is_named_where_it_is_wrong(self):
        found = run(["depthwise", "tf"], [parse(BOTH), parse(PLAIN)], jobs=2)
        ours, stock = outcomes(found, "depthwise"), outcomes(found, "tf")
        self.assertEqual((ours[BOTH, "value"], stock[BOTH, "value"]), ("REFERENCE WRONG", "FAIL"))
        self.assertEqual((ours[PLAIN, "value"], stock[PLAIN, "value"]), ("PASS", "PASS"))

    @parameterized.expand([("",), ("mode=graph format=NCHW",)])
    def test_a_layer_is_not_asked_for_an_empty_image(self, words):
        cases = [parse(f"in={size} filter=3x3x2 padding=VALID {words}") for size in ("1x2x4x2", "0x3x4x2")]
        found = run(["layer"], cases, jobs=1, reference=None)
        results = outcomes(found, "layer")
        for case, outcome in zip(cases, ("UNSUPPORTED", "PASS"), strict=True):
            self.assertEqual({o for (text, _), o in results.items() if text == str(case)}, {outcome})

    def test_absent_devices_are_not_run(self):
        case = parse(PLAIN + " device=NPU")
        found = run(["tf"], [case], jobs=1)
        self.assertEqual({r.outcome for r in found.results}, {"NOT RUN"})


class CommandLineTest(unittest.TestCase):
    def test_exit_status_and_json(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "found.json"
            self.assertEqual(main(["run", "--target", "depthwise", "--case", PLAIN, "--json", str(path)]), 0)
            document = json.loads(path.read_text())
        self.assertEqual({r["outcome"] for r in document["results"]}, {"PASS"})
        self.assertIn("tensorflow", document["header"]["versions"])

    def test_a_planted_fault_exits_1(self):
        self.assertEqual(main(["run", "--target", "fault:filter-rows-flipped", "--case", PLAIN]), 1)

    @parameterized.expand(
        [
            (["--target", "nothing"],),
            (["--target", "nothing.py:op"],),
            (["--case", "in=1x1"],),
            (["--case", PLAIN + " device=NPU"],),
            (["--case", "in=1x5x5x2 filter=0x3x1"],),
            (["--case", "in=1x5x5x2 filter=3x3x1 strides=2x0"],),
            (["--case", PLAIN + " seed=-1"],),
            (["--case", PLAIN + " order=3"],),
            (["--case", PLAIN + " bad=nonsense"],),
        ]
    )
    def test_what_could_not_run_exits_2(self, options):
        self.assertEqual(main(["run", "--jobs", "1", *options]), 2)

    @parameterized.expand(
        [
            ("--max-cases", "0"),
            ("--jobs", "-1"),
            ("--timeout", "0"),
            ("--memory", "inf"),
            ("--memory", "much"),
            ("--shard", "3/2"),
            ("--shrink", "-1"),
            ("--repros", __file__),
            ("--html", "/nowhere/found.html"),
        ]
    )
    def test_what_breaks_the_rule_of_an_option_exits_2(self, option, text):
        with self.assertRaises(SystemExit) as raised, contextlib.redirect_stderr(io.StringIO()) as said:
            main(["run", option, text])
        self.assertEqual(raised.exception.code, 2)
        self.assertIn(f"argument {option}: ", said.getvalue())

    def test_what_selects_cases_selects_among_the_given_too(self):
        options = ["--case", PLAIN, "--case", PLAIN + " device=GPU seed=2"]
        given = {
            "": [("CPU", 0), ("GPU", 2)],
            "--seed 3": [("CPU", 3), ("GPU", 5)],
            "--device cpu": [("CPU", 0), ("CPU", 2)],
            "--max-cases 1": [("CPU", 0)],
            "--shard 2/2": [("GPU", 2)],
        }
        for more, expected in given.items():
            chosen = selected(parser().parse_args(["run", *options, *more.split()]))
            self.assertEqual([(case.device, case.seed) for case in chosen], expected, more)

    def test_a_failure_is_on_the_page_and_has_a_script(self):
        fault = "fault:filter-rows-flipped"
        with tempfile.TemporaryDirectory() as folder:
            page, scripts = Path(folder) / "found.html", Path(folder) / "repros"
            options = ["--target", fault, "--case", PLAIN, "--html", str(page), "--repros", str(scripts)]
            self.assertEqual(main(["run", "--jobs", "1", "--shrink", "1", *options]), 1)
            (script,) = scripts.iterdir()
            self.assertIn(fault, page.read_text())
            shown = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
        self.assertEqual(shown.returncode, 1)
        self.assertIn("1 of 1 elements are wrong", shown.stderr)

    @parameterized.expand([("filter-rows-flipped", 0, "1 of 1"), ("dilations-dropped", 1, "0 of 1")])
    def test_a_fault_that_survives_exits_1(self, fault, status, caught):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            self.assertEqual(main(["mutation", "--fault", fault, "--case", PLAIN, "--jobs", "1"]), status)
        self.assertIn(f"{caught} faults caught", said.getvalue())

    def test_a_fault_that_is_none_exits_2(self):
        self.assertEqual(main(["mutation", "--fault", "nosuch", "--case", PLAIN]), 2)
        self.assertEqual(main(["mutation", "--case", "junk"]), 2)

    def test_a_folder_that_is_none_is_found_before_the_run(self):
        with self.assertRaises(SystemExit) as raised:
            main(["update-expectations", "/nowhere/known.toml", "--case", PLAIN])
        self.assertEqual(raised.exception.code, 2)

    def test_a_target_that_refuses_everything_exits_2(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "refuses.py"
            path.write_text("def op(*arguments, **options):\n    raise NotImplementedError('nothing here')\n")
            self.assertEqual(main(["run", "--target", f"{path}:op", "--case", PLAIN]), 2)
            found = run([f"{path}:op", "depthwise"], [parse(PLAIN)], jobs=2)
        self.assertEqual(list(found.incomplete), [f"{path}:op"])

    def test_a_target_that_refuses_bad_input_and_everything_else_exits_2(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "refuses.py"
            lines = ["def op(x, w, strides, *arguments, **options):", "    if 0 in strides:"]
            lines += ["        raise ValueError(strides)", "    raise NotImplementedError('nothing here')"]
            path.write_text("\n".join(lines))
            cases = [PLAIN, PLAIN + " bad=strides-zero"]
            self.assertEqual(main(["run", "--target", f"{path}:op", "--case", cases[0], "--case", cases[1]]), 2)
            found = run([f"{path}:op"], [parse(case) for case in cases], jobs=1)
        # Those of the first case: the refusal of the second could be made.
        self.assertEqual(found.incomplete, {f"{path}:op": "none of its 7 checks could be made"})

    def test_no_malformed_call_is_refused_for_the_target(self):
        """Nor in the mode in which a signature stands before it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "takes.py"
            path.write_text("import tensorflow as tf\ndef op(*arguments, **options):\n    return tf.zeros([1])\n")
            cases = [parse(f"{PLAIN} bad={bad} mode={mode}") for bad in MALFORMED for mode in ("graph", "dynamic")]
            found = run([f"{path}:op"], cases, jobs=2, reference=None)
        self.assertEqual({str(r.case) for r in found.results if r.outcome != "FAIL"}, set())

    @parameterized.expand([("raise RuntimeError('once')", "FAIL"), ("os.kill(os.getpid(), 11)", "CRASH")])
    def test_what_does_not_repeat_is_not_forgotten(self, failure, outcome):
        """The target fails at its first call, and never again."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "once.py"
            lines = [
                "import os",
                "import tensorflow as tf",
                f"mark = {folder + '/mark'!r}",
                "def op(*arguments, **options):",
                "    if not os.path.exists(mark):",
                "        open(mark, 'w').close()",
                f"        {failure}",
                "    return tf.nn.depthwise_conv2d(*arguments, **options)",
            ]
            path.write_text("\n".join(lines))
            found = run([f"{path}:op"], [parse(PLAIN)], jobs=1, reference=None)
        failed = {r.check: r.outcome for r in found.results if r.outcome != "PASS"}
        self.assertEqual(failed, {"determinism": outcome})

    def test_a_file_finds_its_neighbours_and_its_own_classes(self):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "neighbour.py").write_text("import tensorflow as tf\nop = tf.nn.depthwise_conv2d\n")
            lines = ["from __future__ import annotations", "from dataclasses import dataclass", "import neighbour"]
            lines += ["@dataclass", "class Size:", "    rows: int", "op = neighbour.op"]
            (Path(folder) / "depthwise.py").write_text("\n".join(lines))
            status = main(["run", "--target", f"{folder}/depthwise.py:op", "--case", PLAIN])
        self.assertEqual(status, 0)

    @parameterized.expand([signal.SIGINT, signal.SIGTERM])
    def test_what_was_found_before_an_interrupt_is_reported_and_no_worker_is_left(self, number):
        hangs = "in=1x4x5x2 filter=3x2x3"
        with tempfile.TemporaryDirectory() as folder:
            report, mark = Path(folder) / "found.json", Path(folder) / "mark"
            target = Path(folder) / "hangs.py"
            says = f"open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep"
            target.write_text(TARGETS.replace("time.sleep", says))
            command = [sys.executable, "-m", "depthwise.conformance", "run", "--target", f"{target}:op", "--jobs", "1"]
            command += ["--case", PLAIN, "--case", hangs, "--json", str(report)]
            # A shell that runs the tests in the background has them ignore Ctrl-C, which a child would inherit.
            heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
            run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
            while not (mark.exists() and mark.read_text()):
                self.assertIsNone(run.poll())
                time.sleep(0.1)
            run.send_signal(number)
            said, _ = run.communicate(timeout=60)
            found = json.loads(report.read_text())
            self.assertEqual(run.returncode, 130)
            self.assertIn("interrupted", said)
            self.assertEqual({r["case"] for r in found["results"]}, {PLAIN})
            self.assertIn("interrupted", found["incomplete"][f"{target}:op"])
            with self.assertRaises(ProcessLookupError):
                for _ in range(50):  # the worker notices within half a second
                    os.kill(int(mark.read_text()), 0)
                    time.sleep(0.1)

    def test_targets_are_listed(self):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            self.assertEqual(main(["targets"]), 0)
        for name in (*targets.BUILT_IN, "depthwise:LOWERING", "module:callable", "file.py:callable"):
            self.assertRegex(said.getvalue(), rf"(?m)^{name} +\w")

    def test_a_report_that_cannot_be_written_loses_no_other(self):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "fire.py"
            target.write_text("from depthwise.ops import depthwise_conv2d as fire\n")
            junit = Path(folder) / "found.xml"
            options = ["--case", PLAIN, "--target", f"{target}:fire", "--json", "/dev/full", "--junit", str(junit)]
            said = [io.StringIO(), io.StringIO()]
            with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
                self.assertEqual(main(["run", "--jobs", "1", *options]), 2)
            printed, errors = ("".join(text.getvalue().split()) for text in said)  # lines are broken anywhere
            self.assertIn("/dev/fullcouldnotbewritten:Nospaceleft", errors)
            self.assertIn("fire.py:fire:failed/made", printed)  # and not an emoji
            self.assertIn("fire.py:fire", junit.read_text())
