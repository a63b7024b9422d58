"""The command line: `depthwise-conformance run`, also `python -m depthwise.conformance run`."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from depthwise.conformance import expectations, repro, targets
from depthwise.conformance.amounts import at_least, positive
from depthwise.conformance.case import Case
from depthwise.conformance.cases import LEVELS, selection
from depthwise.conformance.mutation import BASE, clean, fates
from depthwise.conformance.process import Limits
from depthwise.conformance.report import console as console_report
from depthwise.conformance.report import html as html_report
from depthwise.conformance.report import json as json_report
from depthwise.conformance.report import junit as junit_report
from depthwise.conformance.report.header import header
from depthwise.conformance.report.matrix import matrix
from depthwise.conformance.results import FAILURES, Result, Run
from depthwise.conformance.run import InterruptedRun, run
from depthwise.conformance.shrink import shrink, worth_shrinking
from rich.console import Console
from rich.markup import escape

CONFORMS, FAILED, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """exit status: 0 every check that was made passed or was expected to fail (UNSUPPORTED and NOT RUN are
reported, not counted); 1 one failed, or one that was expected to does not; 2 a target could not run, or none of its
checks could, or a report could not be written; 130 interrupted (Ctrl-C, SIGTERM), after a report of what was found
until then"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: as after the program's name; None for those of the process.

    Returns:
      The exit status: 0, 1, 2 or 130 (`--help` tells of what).
    """
    options = parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; each command's function is the attribute `command` of what it reads."""
    found = argparse.ArgumentParser(
        prog="depthwise-conformance",
        description="Tests implementations of tf.nn.depthwise_conv2d against it and against a float64 oracle.",
    )
    commands = found.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run cases on targets and report", epilog=_EPILOG))
    _add_update(commands.add_parser("update-expectations", help="write a file of known failures from a run"))
    _add_mutation(commands.add_parser("mutation", help="run the planted faults and print how many are caught"))
    commands.add_parser("targets", help="list the built-in targets").set_defaults(command=_list_targets)
    return found


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_run)
    _add_selection(parser)
    parser.add_argument(
        "--target",
        action="append",
        metavar="NAME",
        help="a built-in target (see `targets`), depthwise:LOWERING, module:callable or file.py:callable with the"
        " signature of tf.nn.depthwise_conv2d; repeatable; default depthwise",
    )
    parser.add_argument("--expect", metavar="FILE", help="a TOML file of known failures, or tf for the stock op's")
    parser.add_argument("--json", type=_file, metavar="FILE", help="write all results as JSON")
    parser.add_argument("--junit", type=_file, metavar="FILE", help="write all results as JUnit XML")
    parser.add_argument("--html", type=_file, metavar="FILE", help="write a self-contained page")
    parser.add_argument(
        "--repros", type=_folder, metavar="FOLDER", help="shrink failures, write scripts that show them"
    )
    parser.add_argument(
        "--shrink",
        type=at_least(0),
        default=3,
        metavar="N",
        help="how many failures per target --repros shrinks; default 3",
    )


def _add_update(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_update)
    parser.add_argument("file", type=_file, help="the TOML file, made if it doesn't exist; its comments are kept")
    parser.add_argument("--target", action="append", metavar="NAME", help="as for run")
    _add_selection(parser)


def _add_mutation(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_mutate)
    _add_selection(parser)
    parser.add_argument("--fault", action="append", metavar="NAME", help="this fault alone; repeatable; default all")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--level", choices=LEVELS, default="quick", help="how many cases; default quick")
    parser.add_argument("--case", action="append", metavar="NOTATION", help="run this case alone; repeatable")
    parser.add_argument(
        "--device",
        action="append",
        type=str.upper,
        metavar="TYPE",
        help="a device type; repeatable; default CPU and GPU, for a --case the one in its notation",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of generated cases and data; default 0")
    parser.add_argument("--max-cases", type=at_least(1), metavar="N", help="the first N cases alone")
    parser.add_argument("--shard", type=_shard, metavar="I/N", help="the I-th of N parts of the cases, from 1")
    parser.add_argument(
        "--jobs", type=at_least(1), default=min(os.cpu_count() or 1, 8), help="worker processes at a time"
    )
    parser.add_argument("--timeout", type=positive, default=120.0, metavar="SECONDS", help="for one case; default 120")
    parser.add_argument("--memory", type=positive, default=16.0, metavar="GIB", help="for one worker; default 16")


def _file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in a folder that exists, got {text!r}")
    return path


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, or not exist yet, got {text!r}")
    return path


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    try:
        index, count = int(part), int(parts)
    except ValueError:
        index, count = 0, 0
    if not slash or not 1 <= index <= count:
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, got {text!r}")
    return index, count


def _run(options: argparse.Namespace) -> int:
    console = console_report.console()
    names = options.target or ["depthwise"]
    try:
        chosen = selected(options)
        known = expectations.read(expectations.find(options.expect)) if options.expect else []
    except ValueError as error:
        return _refuse(error)
    limits = _limits(options)
    scripts: dict[Result, str] = {}
    interrupted = False
    with _terminated_as_by_ctrl_c():
        try:
            with console_report.progress(console) as notify:
                found = run(names, chosen, jobs=options.jobs, limits=limits, notify=notify)
        except InterruptedRun as interrupt:
            found, interrupted = interrupt.found, True
        found, stale = expectations.apply(found, known)
        console_report.show(console, found)
        unwritten: list[str] = []
        try:
            if not interrupted and (options.html or options.repros):
                scripts = _scripts(console, options, found, limits, unwritten)
        except KeyboardInterrupt:  # while a case is shrunk
            interrupted = True
        _write_reports(options, found, scripts, unwritten)
    if unwritten:
        _refuse(*unwritten)
    if interrupted:
        return INTERRUPTED
    for line in stale:
        console.print(f"[red]no longer fails:[/] {escape(line)}")
    if unwritten:
        return COULD_NOT_RUN
    return FAILED if stale and status(found) == CONFORMS else status(found)


@contextmanager
def _terminated_as_by_ctrl_c() -> Iterator[None]:
    """What was found is worth as much to a CI whose time is up."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _noted(path: Path, unwritten: list[str]) -> Iterator[None]:
    """One file that cannot be written is no reason to lose the others."""
    try:
        yield
    except OSError as error:
        unwritten.append(f"{path} could not be written: {error.strerror or error}")


def _write_reports(options: argparse.Namespace, found: Run, scripts: dict[Result, str], unwritten: list[str]) -> None:
    about = header(_recorded(options))
    reports: tuple[tuple[Path | None, Callable[[Path], None]], ...] = (
        (options.json, lambda path: json_report.write(path, found, about)),
        (options.junit, lambda path: junit_report.write(path, found)),
        (options.html, lambda path: html_report.write(path, found, about, scripts)),
    )
    for path, write in reports:
        if path:
            with _noted(path, unwritten):
                write(path)


def _scripts(
    console: Console, options: argparse.Namespace, found: Run, limits: Limits, unwritten: list[str]
) -> dict[Result, str]:
    """Scripts for one failure in each cell of the matrix; the first few, if they are to be files, shrunk."""
    scripts: dict[Result, str] = {}
    for target in filter(repro.possible, found.versions):
        left = options.shrink if options.repros else 0
        for cell in matrix(result for result in found.results if result.target == target).values():
            result = next(filter(worth_shrinking, cell.results), None)
            if result is None:
                continue
            shown = result
            if left:
                left -= 1
                shown = shrink(result, limits)
                with _noted(options.repros, unwritten):
                    path = repro.write(options.repros, shown)
                    console.print(f"{target} {shown.check}: {path}", markup=False)
            scripts[result] = repro.script(shown)
    return scripts


def _update(options: argparse.Namespace) -> int:
    console = console_report.console()
    try:
        chosen = selected(options)
        known = expectations.read(options.file) if options.file.exists() else []
    except ValueError as error:
        return _refuse(error)
    with console_report.progress(console) as notify:
        found = run(options.target or ["depthwise"], chosen, jobs=options.jobs, limits=_limits(options), notify=notify)
    found, _ = expectations.apply(found, known)
    unwritten: list[str] = []
    with _noted(options.file, unwritten):
        added, removed = expectations.update(options.file, found, known)
        what = f"{added} entries added (give each its reason), {removed} that no longer fail taken out"
        console.print(f"{options.file}: {what}", markup=False)
    if unwritten:
        return _refuse(*unwritten)
    return COULD_NOT_RUN if found.incomplete else CONFORMS


def _refuse(*reasons: object) -> int:
    for reason in reasons:
        console_report.console(stderr=True).print(f"depthwise-conformance: {reason}", markup=False)
    return COULD_NOT_RUN


def _mutate(options: argparse.Namespace) -> int:
    from depthwise.conformance import faults  # imports TensorFlow

    console = console_report.console()
    limits = _limits(options)
    known = [name.removeprefix("fault:") for name in faults.names()]
    names = [f"fault:{name}" for name in options.fault or known]
    try:
        if unknown := set(options.fault or ()) - set(known):
            raise ValueError(f"argument --fault must be one of {', '.join(known)}, got {', '.join(sorted(unknown))}")
        chosen = selected(options)
    except ValueError as error:
        return _refuse(error)
    with console_report.progress(console) as notify:
        cases_here = clean(chosen, jobs=options.jobs, limits=limits, notify=notify)
    console.print(f"{len(names)} faults, each until it fails one of {len(cases_here)} cases that {BASE} passes")
    found = fates(names, cases_here, jobs=options.jobs, limits=limits, notify=console_report.fate(console))
    survivors = [fate.fault for fate in found if fate.caught_by is None]
    caught = len(found) - len(survivors)
    share = f"{caught} of {len(found)} faults caught ({caught / len(found):.0%})"
    console.print(f"mutation score at level {options.level}, seed {options.seed}: {share}")
    return FAILED if survivors else CONFORMS


def _limits(options: argparse.Namespace) -> Limits:
    return Limits(options.timeout, int(options.memory * 2**30))


def selected(options: argparse.Namespace) -> list[Case]:
    """The cases that the options ask for.

    Raises:
      ValueError: a notation or a level can't be read.
    """
    chosen = selection(options.case, options.level, options.device, options.seed)
    if options.shard:
        index, count = options.shard
        chosen = chosen[index - 1 :: count]
    return chosen[: options.max_cases]


def status(found: Run) -> int:
    """The exit status of a run."""
    if found.incomplete or not found.results:
        return COULD_NOT_RUN
    return FAILED if any(result.outcome in FAILURES for result in found.results) else CONFORMS


def _recorded(options: argparse.Namespace) -> dict[str, object]:
    return {name: value for name, value in vars(options).items() if isinstance(value, (str, int, float, list))}


def _list_targets(_: argparse.Namespace) -> int:
    console = console_report.console()
    summaries = {}
    for name, entry in targets.BUILT_IN.items():
        absent = targets.missing(name)
        summaries[name] = entry.summary + (f" ({', '.join(absent)} not installed)" if absent else "")
    summaries["depthwise:LOWERING"] = "depthwise.ops.depthwise_conv2d with one lowering forced"
    summaries["module:callable"] = "a function of yours, with the signature of tf.nn.depthwise_conv2d"
    summaries["file.py:callable"] = "the same, from a file"
    width = max(map(len, summaries))
    for name, summary in summaries.items():
        console.print(f"{name:<{width}} {summary}", markup=False, soft_wrap=True)
    return CONFORMS
