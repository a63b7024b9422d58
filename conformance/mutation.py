"""The mutation score: how many of the planted faults a level catches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

from depthwise.conformance.case import MODES, Case
from depthwise.conformance.faults import HANGING
from depthwise.conformance.process import Limits, Workers
from depthwise.conformance.results import FAILURES, TIMEOUT, Result
from depthwise.conformance.run import Progress, run

_HANG_SECONDS = 30.0  # enough for a hang to show
BASE = "depthwise"  # what the faults are planted in


@dataclass(frozen=True)
class Fate:
    """What became of a fault: the first check that it failed, or None if it survived."""

    fault: str
    caught_by: Result | None


def clean(cases: Sequence[Case], *, jobs: int, limits: Limits, notify: Callable[[Progress], None]) -> list[Case]:
    """The cases in which the op without a fault fails nothing: failing any other proves nothing about a fault."""
    found = run([BASE], cases, jobs=jobs, limits=limits, reference=None, notify=notify)
    failed = {result.case for result in found.results if result.outcome in FAILURES}
    return [case for case in cases if case not in failed]


def fates(
    faults: Sequence[str], cases: Sequence[Case], *, jobs: int, limits: Limits, notify: Callable[[Fate], None]
) -> list[Fate]:
    """Runs each fault until it fails a check.

    Args:
      faults: names of targets.
      cases: what to run, from `clean`.
      jobs: how many faults at a time.
      limits: time and memory for each case.
      notify: called with each fate as it is known.

    Returns:
      The fates, in the order of `faults`.

    Raises:
      RuntimeError: a fault could not be judged: it doesn't start, or is too slow without being one that hangs.
    """
    workers = Workers()
    # What is quick to run first: most faults show without compiling anything.
    cases = sorted(cases, key=lambda case: MODES.index(case.mode))

    def fate(fault: str) -> Fate:
        allowed = replace(limits, seconds=min(limits.seconds, _HANG_SECONDS)) if fault in HANGING else limits
        found = run([fault], cases, jobs=1, limits=allowed, reference=None, stop_at_first_failure=True, workers=workers)
        if found.incomplete:
            raise RuntimeError(f"mutation: {fault} must run to be judged, but {found.incomplete[fault]}")
        caught_by = next((result for result in found.results if result.outcome in FAILURES), None)
        if caught_by and caught_by.outcome == TIMEOUT and fault not in HANGING:
            raise RuntimeError(f"mutation: {fault} must answer within --timeout, but did not for {caught_by.subject}")
        return Fate(fault, caught_by)

    known: dict[str, Fate] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(fate, fault) for fault in faults]):
                known[future.result().fault] = future.result()
                notify(future.result())
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    workers.close()
    return [known[fault] for fault in faults]
