"""Times by turns, noise, memory, ratios and tables: of sleeps and made-up figures, whose results are known."""

import io
import json
import math
import tempfile
import time
import unittest
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.alternate import alternate
from benchmarks.goals import GOALS, Goal, verdict
from benchmarks.measurement import Measurement, load, save
from benchmarks.report import plot, show, show_goals, within_noise
from benchmarks.suites import suite


def made_up(case, implementation, mode, wall_ms, quantity="output", onednn=True, **more):
    return Measurement(
        case, implementation, mode, quantity, onednn, 2, wall_ms=wall_ms, cpu_ms=wall_ms, noise=0.1, first_s=1, **more
    )


def printed(function, *arguments):
    console = Console(file=io.StringIO(), width=240)
    function(console, *arguments)
    return console.file.getvalue()


class AlternateTest(unittest.TestCase):
    def test_every_entrant_runs_before_any_runs_again(self):
        calls = []
        entrants = {name: lambda name=name: (calls.append(name), time.sleep(0.002)) for name in "abc"}
        times = alternate(entrants, budget_s=0.02)
        turns = calls[3:]  # after one call of each, to see how long it takes
        for start in range(0, 12, 6):
            self.assertEqual(sorted(turns[start : start + 6]), list("aabbcc"))
        self.assertTrue(all(t.wall_ms >= 2 and t.samples >= 2 for t in times.values()), times)

    def test_what_sleeps_takes_no_processor_time(self):
        slept = alternate({"sleep": lambda: time.sleep(0.01)}, 0.05)["sleep"]
        self.assertLess(slept.cpu_ms, slept.wall_ms / 2)

    def test_the_same_thing_twice_shows_noise(self):
        # Alternately slow and fast: the two halves of the field cannot agree but by chance.
        state = iter(range(10**6))
        noisy = alternate({"noisy": lambda: time.sleep(0.002 if next(state) % 2 else 0.02)}, 0.001)["noisy"]
        self.assertGreater(noisy.noise, 1)


class GoalsTest(unittest.TestCase):
    def goal(self, **changes):
        usual = Goal("", ("mobilenetv2",), "output", ("depthwise", "xla"), ("tf.nn", "xla"), 1.0)
        return replace(usual, **changes)

    def measurements(self, ours, stock, name="mobilenetv2"):
        cases = [str(row.case) for row in suite(name, 8)]
        return [
            made_up(case, implementation, "xla", ms)
            for case in cases
            for implementation, ms in (("depthwise", ours), ("tf.nn", stock))
        ]

    def test_geometric_mean_is_weighted_by_layers(self):
        rows = suite("mobilenetv2", 8)
        found = [made_up(str(row.case), "tf.nn", "xla", 1.0) for row in rows]
        found += [made_up(str(row.case), "depthwise", "xla", 2.0 if row.layers == 4 else 1.0) for row in rows]
        layers = sum(row.layers for row in rows)
        self.assertAlmostEqual(verdict(self.goal(), found).ratio, 2 ** (4 / layers))
        self.assertAlmostEqual(verdict(self.goal(worst=True), found).ratio, 2.0)

    def test_other_settings_do_not_count(self):
        found = self.measurements(1.0, 4.0)
        self.assertAlmostEqual(verdict(self.goal(), found).ratio, 0.25)
        self.assertIsNone(verdict(self.goal(onednn=False), found).ratio)
        self.assertIsNone(verdict(self.goal(quantity="step"), found).ratio)

    def test_failures_are_missing_not_zero(self):
        found = self.measurements(1.0, 4.0)
        found[0] = replace(found[0], wall_ms=None, error="ValueError")
        result = verdict(self.goal(), found)
        self.assertEqual(result.cases - result.measured, 1)

    def test_variations_per_byte(self):
        goal = self.goal(suites=("variations",), against=("depthwise", "xla"), near=True, worst=True, only="any")
        rows = suite("variations", 8)
        proportional = [made_up(str(row.case), "depthwise", "xla", row.case.bytes_moved * 1e-6) for row in rows]
        self.assertAlmostEqual(verdict(goal, proportional).ratio, 1.0)
        cliff = [replace(m, wall_ms=3 * m.wall_ms) if "NCHW" in m.case else m for m in proportional]
        self.assertAlmostEqual(verdict(goal, cliff).ratio, 3.0)

    def test_every_goal_has_cases(self):
        for goal in GOALS:
            self.assertGreater(verdict(goal, []).cases, 0, goal.text)
            self.assertTrue(math.isfinite(goal.limit))


class ReportTest(unittest.TestCase):
    found = (
        made_up("8x14x14x512 k3", "tf.nn", "xla", 100.0),
        made_up("8x14x14x512 k3", "depthwise", "xla", 2.0),
        made_up("8x14x14x512 k3", "keras layer", "xla", 105.0),
        Measurement("8x14x14x512 k3", "jax", "xla", "output", True, 2, error="ValueError: no such thing"),
    )

    def test_ratios_noise_and_errors_are_shown(self):
        text = printed(show, self.found)
        self.assertIn("2 (0.02)", text)
        self.assertIn("105 (~1.1)", text)
        self.assertIn("ValueError: no such thing", text)

    def test_settings_are_not_mixed(self):
        found = [*self.found, made_up("8x14x14x512 k3", "depthwise", "xla", 3.0, onednn=False)]
        with_onednn, without = printed(show, found).split("oneDNN off, threads: 2")
        self.assertIn("2 (0.02)", with_onednn)
        self.assertRegex(without, r"│ +3 +│")
        self.assertNotIn("105", without)
        with self.assertRaisesRegex(ValueError, "of 2. Plot one file"):
            plot(Path("plot.png"), found)

    def test_within_noise(self):
        stock, ours, layer, _ = self.found
        self.assertTrue(within_noise(stock, layer))
        self.assertFalse(within_noise(stock, ours))

    def test_goals_say_what_was_left_out(self):
        found = [made_up("8x112x112x32 k3", name, "xla", ms) for name, ms in (("tf.nn", 100.0), ("depthwise", 1.0))]
        text = printed(show_goals, found)
        self.assertIn("partly measured", text)
        self.assertIn("need other suites", text)

    def test_files_are_read_back_and_the_later_wins(self):
        with tempfile.TemporaryDirectory() as folder:
            first, second = Path(folder, "a.json"), Path(folder, "b.json")
            save(first, {"machine": "x"}, self.found)
            save(second, {}, [replace(self.found[0], wall_ms=1.0)])
            self.assertEqual(json.loads(first.read_text())["machine"], "x")
            self.assertEqual(load([first]), list(self.found))
            self.assertEqual(load([first, second])[0].wall_ms, 1.0)

    def test_plot(self):
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            self.skipTest("matplotlib is not installed")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "plot.png")
            model = Measurement("MobileNetV2 96x96", "depthwise", "xla", "train", True, 2, wall_ms=1.0)
            for measurements in (self.found, [model]):  # a whole model's quantities are others
                plot(path, measurements)
                self.assertEqual(path.read_bytes()[1:4], b"PNG")
                path.unlink()
