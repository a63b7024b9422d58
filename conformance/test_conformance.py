"""What `pytest --pyargs depthwise.conformance` collects: see `pytest_plugin` for the options."""

from __future__ import annotations

import pytest
from depthwise.conformance.case import Case
from depthwise.conformance.checks import ENOUGH_ELEMENTS
from depthwise.conformance.pytest_plugin import Asked
from depthwise.conformance.results import unmade


def test_case(asked: Asked, conformance_case: Case) -> None:
    """Every check of one case."""
    asked.judge(asked.answer(conformance_case))


def test_statistics(asked: Asked) -> None:
    """The errors of all cases before, taken together."""
    results = asked.statistics.results(asked.target)
    if not results:
        pytest.skip(f"NOT RUN: no kind of result has {ENOUGH_ELEMENTS} elements")
    asked.judge(results)


def test_some_check_could_be_made(asked: Asked, pytestconfig: pytest.Config) -> None:
    """A target does something: with every case skipped, the session would pass."""
    if hasattr(pytestconfig, "workerinput"):
        pytest.skip("NOT RUN: pytest-xdist spreads the cases over processes, and this one knows only its own")
    if count := unmade(asked.answers):
        pytest.fail(f"none of the {count} checks of {asked.target} could be made", pytrace=False)
