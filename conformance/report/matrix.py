"""Results as a matrix of format and padding by strides and dilations: what the console and the HTML page show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from depthwise.conformance.case import Case
from depthwise.conformance.results import FAILURES, NOT_RUN, UNSUPPORTED, Result

_COLUMNS = ("plain", "strides", "strides h!=w", "dilations", "strides+dilations")
_REFUSALS, _STATISTICS = "bad input", "statistics"


@dataclass
class Cell:
    """The results in one cell."""

    results: list[Result] = field(default_factory=list)

    @property
    def made(self) -> int:
        """How many checks the target was judged in."""
        return sum(result.outcome not in (UNSUPPORTED, NOT_RUN) for result in self.results)

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(result.outcome in FAILURES for result in self.results)

    @property
    def unsupported(self) -> int:
        """How many checks the target declined."""
        return sum(result.outcome == UNSUPPORTED for result in self.results)

    @property
    def worst(self) -> float:
        """The worst error in units of the bound."""
        return max((result.units for result in self.results), default=0.0)


def matrix(results: Iterable[Result]) -> dict[tuple[str, str], Cell]:
    """Cells by (row, column), sorted; what belongs to no format and padding has the column ""."""
    cells: dict[tuple[str, str], Cell] = {}
    for result in results:
        cells.setdefault(place(result), Cell()).results.append(result)
    return dict(sorted(cells.items(), key=lambda item: order(item[0])))


def order(place: tuple[str, str]) -> tuple[bool, bool, str, int]:
    """The key that sorts places: NHWC before NCHW, the plain case first, what belongs to no format last."""
    row, column = place
    return not column, not row.startswith("NHWC"), row, _COLUMNS.index(column) if column else 0


def place(result: Result) -> tuple[str, str]:
    """The (row, column) of a result."""
    case = result.case
    if case.bad:
        return _REFUSALS, ""
    if result.statistical:
        return _STATISTICS, ""
    return f"{case.format} {case.padding_kind}", _column(case)


def _column(case: Case) -> str:
    if case.strides == case.dilations == (1, 1):
        return "plain"
    if case.dilations == (1, 1):
        return "strides" if case.strides[0] == case.strides[1] else "strides h!=w"
    return "dilations" if case.strides == (1, 1) else "strides+dilations"
