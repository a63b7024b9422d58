"""The report as one self-contained page: targets side by side, a row per format, padding, and strides or dilations."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depthwise.conformance.report.matrix import Cell, matrix, order
from depthwise.conformance.results import EXPECTED, FAILURES, OUTCOMES, Result, Run
from jinja2 import Environment, PackageLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=PackageLoader("depthwise.conformance", "templates"), undefined=StrictUndefined, autoescape=True
)


def write(path: Path, run: Run, header: dict[str, Any], scripts: Mapping[Result, str]) -> None:
    """Writes a run to a page.

    Args:
      path: the file, overwritten if it exists.
      run: what to show.
      header: versions, machine and options of the run, see `header.header`.
      scripts: standalone scripts by the failure that they reproduce.
    """
    targets = list(dict.fromkeys(result.target for result in run.results))
    matrices = {target: matrix([r for r in run.results if r.target == target]) for target in targets}
    places = dict.fromkeys(place for cells in matrices.values() for place in cells)
    rows = [
        {
            "group": row if column else "all formats",
            "name": column or row,
            "cells": [_cell(row, column, matrices[target].get((row, column), Cell())) for target in targets],
        }
        for row, column in sorted(places, key=order)
    ]
    details = {
        target: {_place(row, column): _details(cell.results, scripts) for (row, column), cell in cells.items()}
        for target, cells in matrices.items()
    }
    totals = {target: _totals([r for r in run.results if r.target == target]) for target in targets}
    page = _TEMPLATES.get_template("report.html.j2").render(
        header=header,
        targets=targets,
        versions=run.versions,
        incomplete=run.incomplete,
        rows=rows,
        totals=totals,
        outcomes=OUTCOMES,
        # "</" would end the script element that holds the data, "<!--<script>" hide its end.
        details=json.dumps(details, separators=(",", ":")).replace("<", "\\u003c"),
    )
    path.write_text(page)


def _place(row: str, column: str) -> str:
    return f"{row} {column}".strip()


def _cell(row: str, column: str, cell: Cell) -> dict[str, Any]:
    expected = sum(result.outcome == EXPECTED for result in cell.results)
    if not cell.results:
        kind, text = "none", "-"
    elif cell.failed:
        kind, text = "failed", f"{cell.failed} / {cell.made}"
    elif expected:
        kind, text = "expected", f"{expected} known"
    elif not cell.made:
        kind, text = "unsupported", "not run" if not cell.unsupported else "unsupported"
    else:
        kind, text = "passed", f"{cell.worst:.2f}"
    return {
        "place": _place(row, column),
        "kind": kind,
        "text": text,
        "made": cell.made,
        "unsupported": cell.unsupported,
    }


def _details(results: Sequence[Result], scripts: Mapping[Result, str]) -> list[dict[str, Any]]:
    """Every case once: the outcomes of its checks, what failed and how, and a script if there is one."""
    cases: dict[str, dict[str, Any]] = {}
    for result in results:
        entry = cases.setdefault(result.subject, {"case": result.subject, "worst": 0.0, "checks": {}, "failed": []})
        entry["checks"].setdefault(result.outcome, []).append(result.check)
        if result.outcome in (*FAILURES, EXPECTED):
            failure = {"check": result.check, "outcome": result.outcome, "detail": result.detail}
            if result in scripts:
                failure["script"] = scripts[result]
            entry["failed"].append(failure)
        elif math.isfinite(result.units):
            entry["worst"] = max(entry["worst"], round(result.units, 3))
    return sorted(cases.values(), key=lambda entry: (not entry["failed"], -entry["worst"]))


def _totals(results: Sequence[Result]) -> dict[str, int]:
    return {outcome: sum(result.outcome == outcome for result in results) for outcome in OUTCOMES}
