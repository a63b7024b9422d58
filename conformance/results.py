"""What a run finds: results, their outcomes, and what they were found on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from depthwise.conformance.case import Case
from depthwise.conformance.checks import REFUSAL, STATISTICS

PASS, FAIL, REFERENCE_WRONG = "PASS", "FAIL", "REFERENCE WRONG"
UNSUPPORTED, CRASH, TIMEOUT, NOT_RUN = "UNSUPPORTED", "CRASH", "TIMEOUT", "NOT RUN"
EXPECTED = "EXPECTED"  # a failure that an expectations file knows
OUTCOMES = (PASS, REFERENCE_WRONG, EXPECTED, FAIL, CRASH, TIMEOUT, UNSUPPORTED, NOT_RUN)
FAILURES = (FAIL, CRASH, TIMEOUT)
REFUSES = "REFUSES"  # of the reference alone: it raises an error where the formula has a value


def printable(text: str) -> str:
    """What a target said, with escapes for what no file or terminal takes: control characters, lone surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Result:
    """What one check of one case found about one target.

    Attributes:
      target: its name.
      case: the case; for the checks "statistics:...", which are over many cases, the dtype, mode and device that they
        share.
      check: the check's name.
      outcome: one of OUTCOMES.
      units: the worst error in units of its bound (for "statistics", of the deviation); infinite if no rounding
        explains it.
      detail: one line on what was found, "" for a pass.
      raised: whether that was an error that the target raised, so that no result exists.
      shown_by: the results that were asked for at once to show it; () is the one that the check is named after, or the
        value.
      reference: what the reference does in the same check: an outcome, "REFUSES" if it raises an error, "" where it
        wasn't asked.
      was: the outcome that an expected failure had.
    """

    target: str
    case: Case
    check: str
    outcome: str
    units: float = 0.0
    detail: str = ""
    raised: bool = False
    shown_by: tuple[str, ...] = ()
    reference: str = ""
    was: str = ""

    @property
    def statistical(self) -> bool:
        """Whether this is over many cases."""
        return self.check.startswith(STATISTICS)

    @property
    def subject(self) -> str:
        """The case's notation, or what the statistics are over."""
        if self.statistical:
            return f"dtype={self.case.dtype} mode={self.case.mode} device={self.case.device}"
        return str(self.case)


def unmade(answers: Sequence[Result]) -> int:
    """How many checks of a target there were, if none of them could be made; else 0.

    A target that refuses everything, as where its own imports fail, must not pass for a conforming one. A refusal of
    bad input is no sign of life, and does not count: some targets check arguments first, and can do nothing more.
    """
    computes = [result for result in answers if result.check != REFUSAL] or answers
    return len(computes) if all(result.outcome in (UNSUPPORTED, NOT_RUN) for result in computes) else 0


@dataclass
class Run:
    """All results of a run, and what it ran on.

    Attributes:
      results: in the order of targets, cases and checks.
      versions: of what each target ran on.
      devices: that each target could run on.
      incomplete: targets of which not everything asked for is there, with the reason.
    """

    results: list[Result] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    devices: dict[str, list[str]] = field(default_factory=dict)
    incomplete: dict[str, str] = field(default_factory=dict)
