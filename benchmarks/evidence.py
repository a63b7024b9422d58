"""Why it is fast: what XLA makes of one case, in figures that can be checked by eye.

    python -m benchmarks.evidence "8x56x56x128 k3" --quantity filter_grad --lowering taps

prints the fusions of the optimised HLO with the memory that they move, whether LLVM vectorised them (from XLA's dump),
and the time against the one-pass floor.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.case import Case, parse
from benchmarks.hlo import read
from benchmarks.measurement import USUAL_QUANTITIES
from benchmarks.run import ROOT


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the evidence for one case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description="What XLA makes of one case.")
    parser.add_argument("case", help="for example '8x56x56x128 k3 s2 VALID'")
    parser.add_argument("--quantity", choices=USUAL_QUANTITIES, default="output")
    parser.add_argument("--lowering", default="taps", help="a lowering, or tf.nn for the stock op")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    implementation = options.lowering if options.lowering == "tf.nn" else f"depthwise:{options.lowering}"
    case, quantity = parse(options.case), options.quantity
    if options.inner:
        print(json.dumps(_measure(case, implementation, quantity)))
        return
    with tempfile.TemporaryDirectory() as dump:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dump} --xla_dump_hlo_as_text"
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.evidence", *(arguments or sys.argv[1:]), "--inner"],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "2"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr.strip().splitlines()[-1])
        show(Console(), case, json.loads(done.stdout.splitlines()[-1]), Path(dump))


def show(console: Console, case: Case, figures: dict[str, float], dump: Path) -> None:
    """Prints the tables, from XLA's dump and the figures of the process that wrote it."""
    module = min(dump.glob("*after_optimizations.txt"))  # modules are numbered; the floor's comes second
    program = read(module.read_text())
    table = Table("pass", "opcode", "MiB read and written", "in units of input + output", title=str(case))
    total = 0
    for instruction, moved in program.passes():
        total += moved
        table.add_row(instruction.name, instruction.opcode, f"{moved / 2**20:.2f}", f"{moved / case.bytes_moved:.2f}")
    table.add_row("all", "", f"{total / 2**20:.2f}", f"{total / case.bytes_moved:.2f}", style="bold")
    console.print(table)
    vectors = vector_arithmetic(
        "\n".join(path.read_text() for path in dump.glob(f"{module.name.partition('.')[0]}.*ir-with-opt.ll"))
    )
    slow = sorted(program.opcodes() & {"convolution", "custom-call", "gather", "while", "dynamic-slice"})
    console.print("opcodes that stop fusion or vectorisation:", ", ".join(slow) or "none")
    console.print(
        "floating-point arithmetic in LLVM's IR:",
        ", ".join(f"{count} on {kind}" for kind, count in vectors.items()) or "none found",
    )
    passes = figures["ms"] / figures["floor_ms"]
    console.print(
        f"{figures['ms']:.3g} ms; one pass, x * 2, takes {figures['floor_ms']:.3g}: the time of {passes:.2f} passes."
        f" Repeated, the figures differ by {figures['noise']:.0%}. First call {figures['first_s']:.2f} s."
    )


def vector_arithmetic(ir: str) -> dict[str, int]:
    """Floating-point multiplications and additions in LLVM IR, counted by type: `<16 x float>` is vectorised."""
    counts: dict[str, int] = {}
    for kind in re.findall(r"\bf(?:mul|add)\b(?: \w+)*? (<\d+ x \w+>|float|double)", ir):
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _measure(case: Case, implementation: str, quantity: str) -> dict[str, float]:
    from benchmarks.frameworks import tensorflow
    from benchmarks.worker import measure

    runners = [(implementation, "xla"), ("floor", "xla")]
    found, floor = measure(tensorflow, case, quantity, runners, 0.5, memory=False)
    if found.wall_ms is None or found.first_s is None or floor.wall_ms is None:
        raise SystemExit(found.error or floor.error)
    noise = max(found.noise or 0, floor.noise or 0)
    return {"ms": found.wall_ms, "floor_ms": floor.wall_ms, "noise": noise, "first_s": found.first_s}


if __name__ == "__main__":
    main()
