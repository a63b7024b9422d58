"""Shrinking: the smallest case that still fails a check in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from depthwise.conformance.case import Case
from depthwise.conformance.checks import checks_of
from depthwise.conformance.process import Limits, TargetUnavailableError, Worker, WorkerLostError
from depthwise.conformance.results import FAILURES, Result

_MOST_SECONDS = 60.0  # for one failure: a crash costs a new process in every trial


def shrink(result: Result, limits: Limits) -> Result:
    """Makes a failed case smaller for as long as the same check fails likewise: with the same outcome, and the same
    kind of error.

    Args:
      result: a failure of a check on one case.
      limits: for each trial.

    Returns:
      The failure on the smallest case that was found. The result itself where nothing smaller fails.
    """
    with _Trials(result, limits) as trial:
        best: Result | None = result
        while best is not None:
            result, best = best, next(filter(None, map(trial, _smaller(best.case))), None)
    return result


class _Trials:
    """Cases tried, whether they fail as the result did, in a worker that is started again whenever it is lost."""

    def __init__(self, result: Result, limits: Limits) -> None:
        self._result, self._limits = result, limits
        self._worker: Worker | None = None
        self._end = time.monotonic() + _MOST_SECONDS

    def __enter__(self) -> Callable[[Case], Result | None]:
        return self._failure

    def __exit__(self, *_: object) -> None:
        self._close()

    def _failure(self, case: Case) -> Result | None:
        if time.monotonic() > self._end:
            return None
        try:
            found = self._found(case)
        except (ValueError, TargetUnavailableError):
            return None
        return found if _manner(found) == _manner(self._result) else None

    def _found(self, case: Case) -> Result:
        if self._worker is None:
            self._worker = Worker(self._result.target, self._limits)
        together = len(self._result.shown_by) > 1
        asked = checks_of(case) if together else (self._result.check, *self._result.shown_by)
        try:
            answers = [*self._worker.ask(str(case), asked, separately=not together)]
        except WorkerLostError as lost:
            self._close()
            return replace(self._result, case=case, outcome=lost.outcome, detail=lost.detail, raised=False)
        found = {message["found"]["check"]: message["found"] for message in answers if "found" in message}
        of = found[self._result.check]
        said = {name: of[name] for name in ("outcome", "units", "detail", "raised")}
        return replace(self._result, case=case, **said)

    def _close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


def _manner(result: Result) -> tuple[str, str]:
    """How a result fails: the outcome, and of an error that the target raised its class."""
    return result.outcome, result.detail.partition(":")[0] if result.raised else ""


def _smaller(case: Case) -> Iterator[Case]:
    """Simpler cases, the boldest first. Every step lowers a size or takes a default, so that shrinking ends."""
    plain = Case(case.input, case.filter)
    if case.bad:
        return
    if case.mode != plain.mode:
        yield replace(case, mode=plain.mode, unknown=plain.unknown)
    for name in ("unknown", "dtype", "format", "data", "order", "strides", "dilations", "seed"):
        if getattr(case, name) != getattr(plain, name):
            yield replace(case, **{name: getattr(plain, name)})
    if not isinstance(case.padding, str):
        (top, bottom), (left, right) = case.padding
        for pads in _lower((top, bottom, left, right), least=0):
            yield replace(case, padding=((pads[0], pads[1]), (pads[2], pads[3])))
    for shape in _lower(case.input, least=1):
        yield replace(case, input=(shape[0], shape[1], shape[2], shape[3]))
    for taps in _lower(case.filter, least=1):
        yield replace(case, filter=(taps[0], taps[1], taps[2]))
    for pair in _lower(case.strides, least=1):
        yield replace(case, strides=(pair[0], pair[1]))
    for pair in _lower(case.dilations, least=1):
        yield replace(case, dilations=(pair[0], pair[1]))


def _lower(numbers: tuple[int, ...], least: int) -> Iterator[tuple[int, ...]]:
    """The numbers with one of them at its least, halved, or one lower."""
    for index, number in enumerate(numbers):
        for lower in dict.fromkeys((least, number // 2, number - 1)):
            if least <= lower < number:
                yield (*numbers[:index], lower, *numbers[index + 1 :])


def worth_shrinking(result: Result) -> bool:
    """Whether a result is a failure of one case, as opposed to statistics over many."""
    return result.outcome in FAILURES and not result.statistical
