"""Tables and a plot of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.goals import GOALS, verdict
from benchmarks.measurement import FLOOR, MODES, QUANTITIES, Measurement
from benchmarks.run import summary

REFERENCE = "tf.nn"


def show(console: Console, measurements: Sequence[Measurement]) -> None:
    """Prints, for each setting and mode, time and ratio to the reference in that mode, and what else was measured."""
    by_setting = _by_setting(measurements)
    for (onednn, threads), measured in by_setting.items():
        if len(by_setting) > 1:
            console.rule(f"oneDNN {'on' if onednn else 'off'}, threads: {threads}")
        _show_setting(console, measured)


def _by_setting(measurements: Sequence[Measurement]) -> dict[tuple[bool, int], list[Measurement]]:
    """Measurements by what they must have in common to be compared: with or without oneDNN, and threads."""
    found: dict[tuple[bool, int], list[Measurement]] = {}
    for m in measurements:
        found.setdefault((m.onednn, m.threads), []).append(m)
    return found


def _show_setting(console: Console, measurements: Sequence[Measurement]) -> None:
    times = summary(measurements)
    for mode in MODES:
        names = list(dict.fromkeys(m.implementation for m in measurements if m.mode == mode))
        if not names:
            continue
        table = Table(title=f"{mode}: milliseconds (ratio to {REFERENCE} in the same mode)", title_justify="left")
        table.add_column("case")
        table.add_column("quantity")
        if mode == "xla":
            table.add_column(f"{REFERENCE} graph", justify="right")
        for name in names:
            table.add_column(escape(name), justify="right")
        for (case, quantity), row in times.items():
            if not any(m.mode == mode for m in row.values()):
                continue
            reference = row.get((REFERENCE, mode))
            cells = [_cell(row.get((name, mode)), reference) for name in names]
            if mode == "xla":
                cells.insert(0, _cell(row.get((REFERENCE, "graph")), reference))
            table.add_row(case, quantity, *cells)
        console.print(table)
    console.print(
        "~: within the noise, that is, no further apart than two runs of the same thing. Steps make about three"
        f" passes; {FLOOR} is x * 2 on as many bytes as the output's: one pass; of a whole model, the model"
        " without its depthwise convolutions.",
        style="dim",
    )
    _show_firsts(console, times)
    for reason in dict.fromkeys(f"{m.implementation}, {m.case}: {m.error}" for m in measurements if m.error):
        console.print(f"not measured: {escape(reason)}", style="dim")


def _cell(m: Measurement | None, reference: Measurement | None) -> str:
    if m is None or m.wall_ms is None:
        return "-"
    text = f"{m.wall_ms:.3g}"
    if reference is None or reference.wall_ms is None or m is reference or FLOOR in m.implementation:
        return text
    ratio = m.wall_ms / reference.wall_ms
    if within_noise(m, reference):
        return f"{text} [dim](~{ratio:.2g})[/]"
    return f"{text} [{'green' if ratio < 1 else 'red'}]({ratio:.2g})[/]"


def within_noise(a: Measurement, b: Measurement) -> bool:
    """Whether two figures differ by no more than either differs from itself."""
    assert a.wall_ms and b.wall_ms
    ratio = max(a.wall_ms, b.wall_ms) / min(a.wall_ms, b.wall_ms)
    return ratio - 1 <= max(a.noise or 0, b.noise or 0)


def _show_firsts(console: Console, times: dict[tuple[str, str], dict[tuple[str, str], Measurement]]) -> None:
    runners = list(dict.fromkeys(r for row in times.values() for r in row if r[0] in (REFERENCE, "depthwise")))
    title = "first call in seconds (trace, compile, run) / peak memory in MiB / processor time over wall time"
    table = Table(title=title, title_justify="left")
    table.add_column("case")
    table.add_column("quantity")
    for runner in runners:
        table.add_column(escape(" ".join(runner)), justify="right")
    for (case, quantity), row in times.items():
        cells = []
        for runner in runners:
            m = row.get(runner)
            if m is None or m.wall_ms is None or m.cpu_ms is None or m.first_s is None:
                cells.append("-")
                continue
            peak = "" if m.peak_mb is None else f"{m.peak_mb:.0f}"
            cells.append(f"{m.first_s:.2f} / {peak} / {m.cpu_ms / m.wall_ms:.1f}")
        if any(cell != "-" for cell in cells):
            table.add_row(case, quantity, *cells)
    if runners:
        console.print(table)


def show_goals(console: Console, measurements: Sequence[Measurement]) -> None:
    """Prints each goal, its limit, what was measured, and whether it is met."""
    table = Table(title="Goals (ratios; less is better)", title_justify="left")
    for column in ("goal", "limit", "measured", "met", "cases", "worst case"):
        table.add_column(column, justify="right" if column in ("limit", "measured", "cases") else "left")
    for goal in GOALS:
        v = verdict(goal, measurements)
        if v.ratio is None:
            continue
        met = "[green]yes" if v.ratio <= goal.limit else "[red]no"
        if v.measured < v.cases:
            met += " [/](partly measured)"
        worst = f"{escape(v.worst_case)} ({v.worst_ratio:.3g})"
        table.add_row(goal.text, f"{goal.limit:g}", f"{v.ratio:.3g}", met, f"{v.measured}/{v.cases}", worst)
    missing = sum(verdict(goal, measurements).ratio is None for goal in GOALS)
    if table.row_count:
        console.print(table)
    if missing:
        console.print(f"{missing} of {len(GOALS)} goals need other suites, settings or models.", style="dim")


def plot(path: Path, measurements: Sequence[Measurement]) -> None:
    """Draws the ratio of this op to TensorFlow's, by case and mode, on a logarithmic axis.

    Raises:
      ValueError: the measurements are of several settings.
    """
    settings = len(_by_setting(measurements))
    if settings > 1:
        rule = "be of one setting (with or without oneDNN, threads)"
        raise ValueError(f"plot: `measurements` must {rule}, but are of {settings}. Plot one file at a time.")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    times = summary(measurements)
    # Those of whole models, which are none of them, last.
    quantities = sorted(
        {quantity for _, quantity in times}, key=lambda quantity: (*QUANTITIES, quantity).index(quantity)
    )
    cases = list(dict.fromkeys(case for case, _ in times))
    modes = [mode for mode in MODES if any(m.mode == mode for m in measurements)]
    thickness = 0.78 / len(modes)
    height = 1.0 + 0.32 * len(cases)
    figure, axes = pyplot.subplots(
        1, len(quantities), figsize=(2 + 3.6 * len(quantities), height), sharey=True, layout="constrained"
    )
    for axis, quantity in zip([axes] if len(quantities) == 1 else axes, quantities, strict=True):
        for i, mode in enumerate(modes):
            at, ratios = [], []
            for j, case in enumerate(cases):
                row = times.get((case, quantity), {})
                a, b = row.get(("depthwise", mode)), row.get((REFERENCE, mode))
                if a and b and a.wall_ms and b.wall_ms:
                    at.append(j + (i - (len(modes) - 1) / 2) * thickness)
                    ratios.append(b.wall_ms / a.wall_ms)
            axis.barh(at, [ratio - 1 for ratio in ratios], 0.92 * thickness, left=1, label=mode)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_title(quantity)
        axis.set_xlabel(f"times faster than {REFERENCE} in the same mode")
        axis.set_yticks(range(len(cases)), cases, fontsize=7)
    figure.axes[0].invert_yaxis()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(modes), fontsize=8)
    figure.savefig(path, dpi=140)
