"""The report on the console: a progress bar while it runs, then tables and the failures, one line each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from depthwise.conformance.mutation import Fate
from depthwise.conformance.report.matrix import Cell, matrix
from depthwise.conformance.results import FAILURES, NOT_RUN, OUTCOMES, PASS, REFERENCE_WRONG, Result, Run
from depthwise.conformance.run import Progress
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

ABREAST = 4
"""Targets side by side in one table: as many as a narrow terminal has room for."""
_MOST_FAILURES = 20
_STYLE = dict(zip(OUTCOMES, ("green", "cyan", "magenta", "red", "bold red", "bold red", "yellow", "dim"), strict=True))


def console(stderr: bool = False) -> Console:
    """Where to print: standard output, or standard error. `file.py:op: ` is not meant as an emoji there."""
    return Console(stderr=stderr, emoji=False)


@contextmanager
def progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Shows a progress bar; yields what a run calls with its state."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(state: Progress) -> None:
            failures = f"[red]{state.failures} failed" if state.failures else "[green]none failed"
            bar.update(task, completed=state.done, total=state.total, description=failures)

        yield show


def show(console: Console, run: Run) -> None:
    """Prints the summary, a matrix per target, and its first failures."""
    by_target: dict[str, list[Result]] = defaultdict(list)
    for result in run.results:
        by_target[result.target].append(result)
    for target, results in by_target.items():
        _matrix(console, target, results)
        _failures(console, target, results)
    _summary(console, by_target)
    for target, reason in run.incomplete.items():
        console.print(f"[yellow]{escape(target)}:[/] {escape(reason)}")
    absent = {result.case.device for result in run.results if result.outcome == NOT_RUN}
    if absent:
        console.print(f"[dim]NOT RUN: no {', '.join(sorted(absent))} on this machine[/]")


def fate(console: Console) -> Callable[[Fate], None]:
    """What prints the fate of a fault, one line each."""

    def show_fate(fate: Fate) -> None:
        if fate.caught_by is None:
            console.print(f"[red]SURVIVED[/] {escape(fate.fault)}")
            return
        by = fate.caught_by
        console.print(f"[green]caught[/]   {escape(fate.fault)} by {by.check} ({by.outcome}): {escape(by.subject)}")

    return show_fate


def _summary(console: Console, by_target: dict[str, list[Result]]) -> None:
    targets = list(by_target)
    for first in range(0, len(targets), ABREAST):
        _show_outcomes(console, {target: by_target[target] for target in targets[first : first + ABREAST]})


def _show_outcomes(console: Console, by_target: dict[str, list[Result]]) -> None:
    table = Table(title="Checks by outcome", title_justify="left")
    table.add_column("")
    for target in by_target:
        table.add_column(escape(target), justify="right")
    counts = [Counter(result.outcome for result in results) for results in by_target.values()]
    table.add_row(
        "cases",
        *(str(len({result.case for result in results if not result.statistical})) for results in by_target.values()),
    )
    table.add_row("checks", *(str(len(results)) for results in by_target.values()))
    for outcome in OUTCOMES:
        cells = (f"[{_STYLE[outcome]}]{count[outcome]}[/]" if count[outcome] else "0" for count in counts)
        table.add_row(outcome, *cells)
    table.add_row("worst passing error / bound", *(f"{_worst_passing(results):.3f}" for results in by_target.values()))
    console.print(table)


def _worst_passing(results: Sequence[Result]) -> float:
    passed = (r for r in results if r.outcome in (PASS, REFERENCE_WRONG) and not r.statistical)
    return max((result.units for result in passed), default=0.0)


def _matrix(console: Console, target: str, results: Sequence[Result]) -> None:
    table = Table(title=f"{escape(target)}: failed / made checks", title_justify="left")
    cells = matrix(results)
    columns = list(dict.fromkeys(column for _, column in cells if column))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for row in dict.fromkeys(row for row, column in cells if column):
        table.add_row(row, *(_cell(cells.get((row, column), Cell())) for column in columns))
    if columns:
        console.print(table)
    for (row, column), cell in cells.items():
        if not column:
            console.print(f"{row}: {_cell(cell)}")


def _cell(cell: Cell) -> str:
    if not cell.made:
        return "[dim]-[/]" if not cell.unsupported else "[yellow]unsupported[/]"
    return f"[red]{cell.failed}[/] / {cell.made}" if cell.failed else f"[green]0[/] / {cell.made}"


def _failures(console: Console, target: str, results: Sequence[Result]) -> None:
    failed = [result for result in results if result.outcome in FAILURES]
    for result in failed[:_MOST_FAILURES]:
        style = _STYLE[result.outcome]
        agrees = ", and so does tf.nn" if result.reference in FAILURES else ""
        console.print(f"[{style}]{result.outcome}[/] {escape(target)} {result.check}{agrees}: {escape(result.detail)}")
        console.print(f"    {escape(result.subject)}", soft_wrap=True)
    if len(failed) > _MOST_FAILURES:
        console.print(f"... and {len(failed) - _MOST_FAILURES} more failed checks of {escape(target)}")
