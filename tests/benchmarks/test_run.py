"""The command as a whole, on one tiny case; evidence and exports, on small ones."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from parameterized import parameterized

from benchmarks.case import parse
from benchmarks.evidence import vector_arithmetic
from benchmarks.hlo import read
from benchmarks.run import ROOT, Request, run

TINY = "1x6x6x4 k3"

HLO = """HloModule m, entry_computation_layout={(f32[2,3]{1,0})->f32[2,3]{1,0}}

%fused (p: f32[2,3]) -> f32[2,3] {
  %p = f32[2,3]{1,0} parameter(0)
  ROOT %m = f32[2,3]{1,0} multiply(%p, %p)
}

ENTRY %main (a: f32[2,3]) -> f32[2,3] {
  %a = f32[2,3]{1,0} parameter(0)
  %b = f32[3,2]{1,0} bitcast(%a)
  ROOT %f = f32[2,3]{1,0} fusion(%a, %a), kind=kLoop, calls=%fused
}
"""


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        check=False,
    )


class RunTest(unittest.TestCase):
    def test_one_command_measures_prints_and_saves(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "out.json")
            done = command(
                "benchmarks",
                "--no-peers",
                "--case",
                TINY,
                "--seconds",
                "0.01",
                "--json",
                str(path),
                "--quantity",
                "step",
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            found = json.loads(path.read_text())
        self.assertIn("depthwise", done.stdout)
        self.assertIn("tensorflow", found["versions"])
        runners = {(m["implementation"], m["mode"]) for m in found["measurements"]}
        self.assertLessEqual({("depthwise", mode) for mode in ("eager", "graph", "xla")}, runners)
        for m in found["measurements"]:
            self.assertIsNone(m["error"], m)
            self.assertGreater(m["wall_ms"], 0)
            self.assertGreater(m["first_s"], 0)

    def test_what_an_implementation_cannot_do_is_said(self):
        request = Request((f"{TINY} s2 d2",), ("output",), ("graph",), ("tf.nn", "depthwise"), ("tensorflow",), 0.01)
        stock, ours = (m for reply in run(request) for m in reply.measurements)
        self.assertIn("strides with dilations", stock.error)
        self.assertIsNone(stock.wall_ms)
        self.assertGreater(ours.wall_ms, 0)

    @parameterized.expand(
        [
            (["--case", TINY, "--implementation", "depthwise:nativ"], "must be one of .*depthwise:native, .*nativ$"),
            (["--case", "1x6x6x4 x3"], "--case: .*cannot read 'x3'"),
        ]
    )
    def test_a_mistyped_name_is_refused(self, arguments, said):
        done = command("benchmarks", "--no-peers", "--seconds", "0.01", *arguments)
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr.strip(), said)

    def test_a_framework_that_is_not_there_is_left_out(self):
        with tempfile.TemporaryDirectory() as folder:
            absent = Path(folder, "python")
            absent.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # -S: without installed packages
            absent.chmod(0o755)
            request = Request((TINY,), ("output",), ("eager",), None, ("torch",), pythons=(("torch", str(absent)),))
            (reply,) = run(request)
        self.assertIn("torch", reply.failure)


class EvidenceTest(unittest.TestCase):
    def test_reading_hlo(self):
        program = read(HLO)
        ((fusion, moved),) = program.passes()
        self.assertEqual((fusion.opcode, moved), ("fusion", 2 * 2 * 3 * 4))
        self.assertEqual(program.opcodes(), {"parameter", "multiply", "bitcast", "fusion"})

    def test_vectors_are_told_from_scalars(self):
        ir = "%1 = fmul <8 x float> %a, %b\n%2 = fadd reassoc nsz float %c, %d\n%3 = fmul <8 x float> %a, %a"
        self.assertEqual(vector_arithmetic(ir), {"<8 x float>": 2, "float": 1})

    @pytest.mark.slow
    def test_the_command_tells_ours_from_the_stock_op(self):
        ours = command("benchmarks.evidence", "1x12x12x32 k3")
        self.assertIn("opcodes that stop fusion or vectorisation: none", ours.stdout, ours.stderr)
        self.assertRegex(ours.stdout, r"on <\d+ x float>")
        stock = command("benchmarks.evidence", "1x12x12x32 k3", "--lowering", "tf.nn")
        self.assertRegex(stock.stdout, "vectorisation: .*(convolution|custom-call)", stock.stderr)


@unittest.skipIf(tf.__version__.startswith("2.18"), "TensorFlow 2.18 gives no StableHLO")
class StableHloTest(unittest.TestCase):
    case = "1x7x8x4 k3 s2 NCHW"

    def test_exports_are_complete(self):
        from benchmarks.export_stablehlo import export

        with tempfile.TemporaryDirectory() as folder:
            place = export(Path(folder), parse(self.case), "filter_grad")
            check = np.load(place / "check.npz")
            self.assertIn("stablehlo", (place / "module.mlir").read_text())
            self.assertEqual(len(check["expected"]), 3 * 3 * 4)
            self.assertGreater(check["bound"].min(), 0)

    @parameterized.expand(["output", "input_grad", "filter_grad"])
    def test_half_types_are_summed_in_float32(self, contraction):
        from benchmarks.export_stablehlo import export

        with tempfile.TemporaryDirectory() as folder:
            text = (export(Path(folder), parse("1x7x8x4 k3 bfloat16"), contraction) / "module.mlir").read_text()
            products = [line for line in text.splitlines() if "stablehlo.multiply" in line]
            self.assertTrue(products and all("f32" in line for line in products), products[:3])

    @unittest.skipUnless(importlib.util.find_spec("jax"), "jax is not installed here")
    def test_jax_runs_them_within_the_bound_and_notices_what_is_not(self):
        with tempfile.TemporaryDirectory() as folder:
            arguments = ("benchmarks.export_stablehlo", folder, "--case", self.case, "--case", "1x7x8x4 k3 bfloat16")
            self.assertEqual(command(*arguments).returncode, 0)
            done = command("benchmarks.run_stablehlo", folder, "--seconds", "0.01")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            path = next(Path(folder).glob("*-output/check.npz"))
            check = dict(np.load(path))
            check["expected"][0] += 2 * check["bound"][0]
            np.savez(path, **check)
            done = command("benchmarks.run_stablehlo", folder, "--seconds", "0.01")
            self.assertIn("out of its bound", done.stderr)
