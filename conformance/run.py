"""A run: cases x checks x targets, each target in processes of its own, and a verdict for every check.

The target and the reference (`tf.nn.depthwise_conv2d`, in a process of its own too) are each compared with the oracle,
never with each other. The oracle decides; where the target passes and the reference does not, the outcome says so.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from depthwise.conformance import checks
from depthwise.conformance.case import Case
from depthwise.conformance.process import Limits, TargetUnavailableError, Worker, Workers
from depthwise.conformance.results import FAIL, FAILURES, PASS, REFERENCE_WRONG, REFUSES, Result, Run, unmade
from depthwise.conformance.seat import Seat
from depthwise.conformance.statistics import Statistics
from depthwise.conformance.targets import REFERENCE


class InterruptedRun(KeyboardInterrupt):
    """Ctrl-C, with what was found until then."""

    def __init__(self, found: Run) -> None:
        super().__init__()
        self.found = found


@dataclass(frozen=True)
class Progress:
    """Where a run stands: answered requests, all requests, and failures so far (the reference's apart)."""

    done: int
    total: int
    failures: int


class _Board:
    """What the threads of a run share: the cases still to be asked of each target, and what was found."""

    def __init__(
        self, names: Sequence[str], cases: Sequence[Case], tested: Iterable[str], notify: Callable[[Progress], None]
    ) -> None:
        self._lock = threading.Lock()
        self._open = {name: deque(enumerate(cases)) for name in names}
        self._tested = frozenset(tested)
        self._notify = notify
        self._done, self._total, self._failures = 0, len(names) * len(cases), 0
        self.results: dict[str, dict[int, list[Result]]] = {name: {} for name in names}
        self.statistics = Statistics()
        self.run = Run()
        self.error: BaseException | None = None

    def most_open(self) -> str | None:
        """The target with the most cases left, or None if there is none."""
        with self._lock:
            name = max(self._open, key=lambda n: len(self._open[n]))
            return name if self._open[name] and self.error is None else None

    def next(self, name: str) -> tuple[int, Case] | None:
        with self._lock:
            return self._open[name].popleft() if self._open[name] and self.error is None else None

    def put(self, name: str, index: int, results: list[Result]) -> None:
        with self._lock:
            if self.error is not None:  # the results are being read
                return
            self.results[name][index] = results
            self._done += 1
            if name in self._tested:
                self._failures += sum(result.outcome in FAILURES for result in results)
            self._notify(Progress(self._done, self._total, self._failures))

    def spread(self, name: str, case: Case, check: str, spread: checks.Spread) -> None:
        with self._lock:
            self.statistics.add(name, case, check, spread)

    def ready(self, name: str, worker: Worker) -> None:
        with self._lock:
            self.run.versions[name], self.run.devices[name] = worker.versions, worker.devices

    def stop(self, error: BaseException | None = None) -> None:
        with self._lock:
            self.error = self.error or error
            for waiting in self._open.values():
                waiting.clear()

    def unavailable(self, name: str, reason: str) -> None:
        with self._lock:
            self.run.incomplete[name] = f"could not run: {reason}"
            self._total -= len(self._open[name])
            self._open[name].clear()
            if self._tested <= set(self.run.incomplete):  # the reference alone is nobody's question
                for waiting in self._open.values():
                    waiting.clear()

    @property
    def failures(self) -> int:
        return self._failures


def run(
    targets: Sequence[str],
    cases: Sequence[Case],
    *,
    jobs: int = 2,
    limits: Limits | None = None,
    reference: str | None = REFERENCE,
    stop_at_first_failure: bool = False,
    workers: Workers | None = None,
    notify: Callable[[Progress], None] = lambda _: None,
) -> Run:
    """Runs every case's checks on every target.

    Args:
      targets: names, see `targets.resolve`.
      cases: what to run; cases on a device that a target doesn't have are reported as NOT RUN.
      jobs: how many worker processes at a time.
      limits: time and memory for each case.
      reference: the target to judge beside the others, or None to do without.
      stop_at_first_failure: leave the rest unanswered once a target has failed a check.
      workers: where to take workers from; None for new ones.
      notify: called after every answered case.

    Returns:
      All results.

    Raises:
      InterruptedRun: Ctrl-C. Workers that are busy end with this process.
    """
    names = list(dict.fromkeys([*targets, *([reference] if reference else [])]))
    board = _Board(names, cases, targets, notify)
    watched = frozenset(targets) if stop_at_first_failure else frozenset()
    arguments = (board, workers or Workers(), limits or Limits(), watched)
    threads = [threading.Thread(target=_serve, args=arguments, daemon=True) for _ in range(max(jobs, 1))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():  # in slices, so that Ctrl-C is heard
                thread.join(0.2)
    except KeyboardInterrupt as interrupt:
        board.stop(interrupt)
        found = _with_verdicts(board, targets, cases, reference)
        found.incomplete.update(dict.fromkeys(targets, "interrupted, so these are not all its results"))
        raise InterruptedRun(found) from None
    if board.error is not None:
        raise board.error
    return _with_verdicts(board, targets, cases, reference)


def _serve(board: _Board, workers: Workers, limits: Limits, watched: frozenset[str]) -> None:
    """One thread: holds one worker at a time, of the target that has the most left to do."""
    try:
        while name := board.most_open():
            seat = Seat(name, workers, limits, partial(board.ready, name), partial(board.spread, name))
            try:
                while taken := board.next(name):
                    index, case = taken
                    results = seat.answer(case)
                    board.put(name, index, results)
                    if name in watched and board.failures:
                        board.stop()
            except TargetUnavailableError as error:
                board.unavailable(name, str(error))
            finally:
                seat.leave()
    except BaseException as error:  # a mistake of this suite must end the run, not shorten it
        board.stop(error)


def _with_verdicts(board: _Board, targets: Sequence[str], cases: Sequence[Case], reference: str | None) -> Run:
    of_reference = {
        (index, result.check): REFUSES if result.raised and result.outcome == FAIL else result.outcome
        for index, results in board.results.get(reference or "", {}).items()
        for result in results
    }
    for name in dict.fromkeys(targets):
        for index in range(len(cases)):
            for result in board.results[name].get(index, []):
                beside = of_reference.get((index, result.check), "")
                board.run.results.append(_verdict(result, beside) if name != reference else result)
        answers = [result for results in board.results[name].values() for result in results]
        if count := unmade(answers):
            board.run.incomplete.setdefault(name, f"none of its {count} checks could be made")
        board.run.results.extend(board.statistics.results(name))
    return board.run


def _verdict(result: Result, reference: str) -> Result:
    """The target's result with the reference's outcome. That the reference refuses a case isn't a disagreement."""
    wrong = result.outcome == PASS and reference in FAILURES
    return replace(result, reference=reference, outcome=REFERENCE_WRONG if wrong else result.outcome)
