"""The errors of many cases, added up: what no single case shows (`tolerance`, *Statistics*)."""

from __future__ import annotations

from collections import defaultdict

from depthwise.conformance import checks
from depthwise.conformance.case import Case
from depthwise.conformance.results import FAIL, PASS, Result


class Statistics:
    """The spreads that checks found, by kind of result: of one target and check, in one dtype and mode, on one device.

    Kinds are judged apart, so that many exact results can't hide a few bad ones.
    """

    def __init__(self) -> None:
        self._spreads: dict[tuple[str, str, str, str, str], checks.Spread] = defaultdict(checks.Spread)

    def add(self, target: str, case: Case, check: str, spread: checks.Spread) -> None:
        self._spreads[target, check, case.dtype, case.mode, case.device] += spread

    def results(self, target: str) -> list[Result]:
        """A result for each kind that has enough elements to tell anything."""
        found = []
        for (name, check, dtype, mode, device), spread in sorted(self._spreads.items()):
            if name == target and spread.suffices:
                finding = checks.statistics(spread)
                case = Case((0, 0, 0, 0), (1, 1, 1), dtype=dtype, mode=mode, device=device)
                outcome = PASS if finding.holds else FAIL
                check = f"{checks.STATISTICS}:{check}"
                found.append(Result(name, case, check, outcome, finding.units, finding.detail))
        return found
