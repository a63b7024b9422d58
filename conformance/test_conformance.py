"""What `pytest --pyargs depthwise.conformance` collects: see `pytest_plugin` for the options."""

from __future__ import annotations

import pytest
from depthwise.conformance.case import Case
from depthwise.conformance.checks import ENOUGH_ELEMENTS
from depthwise.conformance.pytest_plugin import Asked


def test_case(asked: Asked, conformance_case: Case) -> None:
    """Every check of one case."""
    asked.judge(asked.seat.answer(conformance_case))


def test_statistics(asked: Asked) -> None:
    """The errors of all cases before, taken together."""
    results = asked.statistics.results(asked.target)
    if not results:
        pytest.skip(f"NOT RUN: no kind of result has {ENOUGH_ELEMENTS} elements")
    asked.judge(results)
