"""What `pytest --pyargs depthwise.conformance` collects: see `pytest_plugin` for the options."""

from __future__ import annotations

import pytest
from depthwise.conformance import checks
from depthwise.conformance.case import Case
from depthwise.conformance.pytest_plugin import Asked


def test_case(asked: Asked, conformance_case: Case) -> None:
    """Every check of one case."""
    asked.judge(conformance_case)


def test_statistics(asked: Asked) -> None:
    """The errors of all cases before, taken together."""
    large = {key: spread for key, spread in asked.spreads.items() if spread.suffices}
    if not large:
        pytest.skip(f"NOT RUN: no result has {checks.ENOUGH_ELEMENTS} elements")
    findings = {key: checks.statistics(spread) for key, spread in large.items()}
    assert not {key: finding.detail for key, finding in findings.items() if not finding.holds}
