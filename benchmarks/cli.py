"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.case import parse
from benchmarks.measurement import MODES, QUANTITIES, USUAL_MODES, USUAL_QUANTITIES, Measurement, load, save
from benchmarks.report import plot, show, show_goals
from benchmarks.run import PEERS, Request, run
from benchmarks.suites import SUITES, suite

USUAL = ("floor", "tf.nn", "depthwise", "keras layer", "depthwise layer")
QUICK = ("floor", "tf.nn", "depthwise")
OF_PEERS = ("torch floor", "torch channels_last", "torch contiguous", "jax floor", "jax")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, or reads what was measured; prints tables, and writes what is asked for."""
    options = _parser().parse_args(arguments)
    # Said outright, for the default is not the same on all processors; every process that measures inherits it.
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1" if options.onednn == "on" else "0"
    console = Console(width=None if os.isatty(1) else 200)
    versions: dict[str, str] = {}
    if options.report:
        found = load(options.report)
    elif options.check_table:
        from benchmarks.check_table import check

        found = check(console, _request(options))
    else:
        found = _measure(console, _request(options), versions, options.implementation or ())
        if options.models:
            from benchmarks.models import measure_models

            found += measure_models(console, _seconds(options))
    if not options.check_table:
        show(console, found)
        show_goals(console, found)
    if options.json:
        save(options.json, _header(versions), found)
    if options.plot:
        plot(options.plot, found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Depthwise convolution, side by side: time, first call, peak memory, by case, mode, framework.",
    )
    parser.add_argument("--quick", action="store_true", help="seven cases, output and step, in under three minutes")
    parser.add_argument("--suite", action="append", choices=[*SUITES, "all"], help="cases to measure; may be repeated")
    parser.add_argument(
        "--case", action="append", type=_case, default=[], help="one case, such as '8x56x56x128 k3 s2 VALID NCHW'"
    )
    parser.add_argument(
        "--batch", type=int, default=8, help="batch size of the suites (8), but for seven, tiny and scaling"
    )
    parser.add_argument("--mode", action="append", choices=MODES, help="may be repeated; all but fit if not given")
    parser.add_argument(
        "--quantity", action="append", choices=QUANTITIES, help="may be repeated; all but per_example_grad if not given"
    )
    parser.add_argument("--implementation", action="append", help="may be repeated, for example 'depthwise:native'")
    parser.add_argument("--seconds", type=float, help="time for each figure (0.3, or 0.1 with --quick)")
    parser.add_argument("--threads", type=int, help="processors to use; all if not given")
    parser.add_argument("--onednn", choices=("on", "off"), default="on", help="TensorFlow's oneDNN kernels")
    parser.add_argument("--no-peers", action="store_true", help="leave out PyTorch and JAX")
    for peer in PEERS:
        parser.add_argument(f"--{peer}-python", help=f"a Python that has {peer}, where this one has not")
    parser.add_argument("--models", action="store_true", help="whole models too (minutes)")
    parser.add_argument("--check-table", action="store_true", help="where would the chooser better choose otherwise?")
    parser.add_argument("--report", nargs="+", type=Path, metavar="FILE", help="measure nothing; show JSON files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the ratios")
    return parser


def _case(text: str) -> str:
    try:
        return str(parse(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _request(options: argparse.Namespace) -> Request:
    cases = list(options.case)
    suites = options.suite or ([] if options.case or options.models else ["seven"])
    for name in SUITES if "all" in suites else suites:
        cases += [str(row.case) for row in suite(name, options.batch)]
    usual = QUICK if options.quick else USUAL
    return Request(
        cases=tuple(dict.fromkeys(cases)),
        quantities=tuple(options.quantity or (("output", "step") if options.quick else USUAL_QUANTITIES)),
        modes=tuple(options.mode or USUAL_MODES),
        implementations=tuple(options.implementation or (*usual, *OF_PEERS)),
        frameworks=_frameworks(options),
        budget_s=_seconds(options),
        threads=options.threads,
        pythons=tuple((peer, p) for peer in PEERS if (p := getattr(options, f"{peer}_python"))),
    )


def _seconds(options: argparse.Namespace) -> float:
    """The time for each figure."""
    if options.seconds is not None:
        return float(options.seconds)
    return 0.1 if options.quick else 0.3


def _frameworks(options: argparse.Namespace) -> tuple[str, ...]:
    if options.no_peers:
        return ("tensorflow",)
    # JAX's convolution is as slow as TensorFlow's under XLA, for the same reason: that takes its time.
    return ("tensorflow", "torch") if options.quick else ("tensorflow", *PEERS)


def _measure(console: Console, request: Request, versions: dict[str, str], named: Sequence[str]) -> list[Measurement]:
    found: list[Measurement] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {name: bar.add_task(name, total=request.steps) for name in request.frameworks}
        for reply in run(request) if request.cases else ():
            if reply.version is not None:
                versions[reply.framework] = reply.version
            if reply.framework == "tensorflow" and reply.implementations:  # which comes first: nothing is measured yet
                known = (*reply.implementations, *OF_PEERS)
                if absent := sorted(set(named) - set(known)):
                    sys.exit(f"argument --implementation must be one of {', '.join(known)}, got {', '.join(absent)}")
            if reply.measurements:
                found += reply.measurements
                bar.advance(tasks[reply.framework])
            if reply.failure is not None:
                console.print(f"[yellow]{reply.framework} is left out:[/] {escape(reply.failure)}")
    return found


def _header(versions: dict[str, str]) -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }
