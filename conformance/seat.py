"""One target being asked, case by case: what is lost with a worker is found out and goes on with the next."""

from __future__ import annotations

from collections.abc import Callable

from depthwise.conformance import checks
from depthwise.conformance.case import Case
from depthwise.conformance.process import Limits, TargetUnavailableError, Worker, WorkerLostError, Workers
from depthwise.conformance.results import CRASH, NOT_RUN, Result


class Seat:
    """A target's place: starts its worker when there is something to ask, and again after each loss.

    Args:
      name: of the target.
      workers: where its workers come from.
      limits: of time and memory for each case.
      ready: called with each worker that starts.
      spread: called with case, check and spread, where a check has statistics to add.
    """

    def __init__(
        self,
        name: str,
        workers: Workers,
        limits: Limits,
        ready: Callable[[Worker], None] = lambda _: None,
        spread: Callable[[Case, str, checks.Spread], None] = lambda *_: None,
    ) -> None:
        self._name, self._workers, self._limits = name, workers, limits
        self._report_ready, self._report_spread = ready, spread
        self._worker: Worker | None = None

    def start(self) -> None:
        """Starts the worker before there is anything to ask.

        Raises:
          TargetUnavailableError: the target can't be had here.
        """
        self._ready()

    def answer(self, case: Case) -> list[Result]:
        """The results of all checks of a case.

        Asks for all at once; if the worker is lost over that, for each group of checks by itself.

        Raises:
          TargetUnavailableError: the target can't be had here.
        """
        names = checks.checks_of(case)
        worker = self._ready()
        if case.device not in worker.devices:
            reason = f"no {case.device} here: this target runs on {', '.join(worker.devices)}"
            return [Result(self._name, case, name, NOT_RUN, detail=reason) for name in names]
        found: dict[str, Result] = {}
        unrepeated: WorkerLostError | None = None
        while left := tuple(name for name in names if name not in found):
            more, lost, begun = self._ask(case, left, separately=unrepeated is not None)
            found |= more
            if lost and lost.outcome == CRASH and len(checks.groups_of(begun)) > 1 and not unrepeated:
                unrepeated = lost  # one of the results ends the process: find out which
            elif lost:
                for name in begun:
                    found.setdefault(name, Result(self._name, case, name, lost.outcome, detail=lost.detail))
        if unrepeated and all(result.outcome != CRASH for result in found.values()):
            check = checks.repeating(names)
            detail = f"{unrepeated.detail} when all results were asked for at once, and not for each by itself"
            found[check] = Result(self._name, case, check, CRASH, detail=detail, shown_by=checks.results_of(names))
        return [found[name] for name in names]

    def _ask(
        self, case: Case, names: tuple[str, ...], separately: bool
    ) -> tuple[dict[str, Result], WorkerLostError | None, tuple[str, ...]]:
        """What was found, how the worker was lost (if it was), and the checks that were being computed last."""
        found: dict[str, Result] = {}
        begun: tuple[str, ...] = names
        try:
            for message in self._ready().ask(str(case), names, separately):
                if "begin" in message:
                    begun = tuple(message["begin"])
                    continue
                of = message["found"]
                check, outcome, units = of["check"], of["outcome"], float(of["units"])
                said = (of["detail"], of["raised"], tuple(of["shown_by"]))
                found[check] = Result(self._name, case, check, outcome, units, *said)
                if of["spread"]:
                    self._report_spread(case, check, checks.Spread(*of["spread"]))
        except WorkerLostError as lost:
            self._ready().close()
            self._worker = None
            return found, lost, begun
        return found, None, begun

    def _ready(self) -> Worker:
        if self._worker is None:
            try:
                self._worker = self._workers.take(self._name, self._limits)
            except WorkerLostError as lost:
                raise TargetUnavailableError(f"its process ends before it is ready: {lost.detail}") from None
            self._report_ready(self._worker)
        return self._worker

    def leave(self) -> None:
        """Gives the worker back."""
        if self._worker is not None:
            self._workers.give_back(self._worker)
            self._worker = None
