"""The report as JSON: everything a run found, for other programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from depthwise.conformance.results import Result, Run


def write(path: Path, run: Run, header: dict[str, Any]) -> None:
    """Writes a run to a file.

    Args:
      path: the file, overwritten if it exists.
      run: what to write.
      header: versions, machine and options of the run, see `header.header`.
    """
    document = {
        "header": header,
        "versions": run.versions,
        "devices": run.devices,
        "incomplete": run.incomplete,
        "results": [as_dict(result) for result in run.results],
    }
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def as_dict(result: Result) -> dict[str, Any]:
    """A result as JSON's types; an infinite error, which JSON has no number for, as null."""
    return {
        "target": result.target,
        "case": result.subject,
        "check": result.check,
        "outcome": result.outcome,
        "error_in_bounds": result.units if math.isfinite(result.units) else None,
        "detail": result.detail,
        "raised": result.raised,
        "shown_by": list(result.shown_by),
        "reference": result.reference,
        "was": result.was,
    }
