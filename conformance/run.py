"""A run: cases x checks x targets, each target in processes of its own, and a verdict for every check.

Three voices decide: the target and the reference (`tf.nn.depthwise_conv2d`, in a process of its own too) are each
compared with the oracle. The reference never decides about the target; it is named where it is wrong itself.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from depthwise.conformance import checks
from depthwise.conformance.case import Case
from depthwise.conformance.process import Limits, TargetUnavailableError, Worker, WorkerLostError, Workers
from depthwise.conformance.targets import REFERENCE

PASS, FAIL, REFERENCE_WRONG = "PASS", "FAIL", "REFERENCE WRONG"
UNSUPPORTED, CRASH, TIMEOUT, NOT_RUN = "UNSUPPORTED", "CRASH", "TIMEOUT", "NOT RUN"
EXPECTED = "EXPECTED"  # a failure that an expectations file knows
OUTCOMES = (PASS, REFERENCE_WRONG, EXPECTED, FAIL, CRASH, TIMEOUT, UNSUPPORTED, NOT_RUN)
FAILURES = (FAIL, CRASH, TIMEOUT)
REFUSES = "REFUSES"  # of the reference alone: it raises an error where the formula has a value


@dataclass(frozen=True)
class Result:
    """What one check of one case found about one target.

    Attributes:
      target: its name.
      case: the case; for the check "statistics", which is over many cases, the dtype and mode that they share.
      check: the check's name.
      outcome: one of OUTCOMES.
      units: the worst error in units of its bound (for "statistics", of the deviation); infinite if no rounding
        explains it.
      detail: one line on what was found, "" for a pass.
      raised: whether that was an error that the target raised, so that no result exists.
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
    reference: str = ""
    was: str = ""

    @property
    def statistical(self) -> bool:
        """Whether this is over many cases."""
        return self.check.startswith(checks.STATISTICS)

    @property
    def subject(self) -> str:
        """The case's notation, or what the statistics are over."""
        if self.statistical:
            return f"dtype={self.case.dtype} mode={self.case.mode} device={self.case.device}"
        return str(self.case)


@dataclass
class Run:
    """All results of a run, and what it ran on.

    Attributes:
      results: in the order of targets, cases and checks.
      versions: of what each target ran on.
      devices: that each target could run on.
      unavailable: targets that could not be had, with the reason.
    """

    results: list[Result] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    devices: dict[str, list[str]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


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
        self.spreads: dict[tuple[str, str, str, str, str], checks.Spread] = {}
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
            self.results[name][index] = results
            self._done += 1
            if name in self._tested:
                self._failures += sum(result.outcome in FAILURES for result in results)
            self._notify(Progress(self._done, self._total, self._failures))

    def spread(self, name: str, case: Case, check: str, spread: checks.Spread) -> None:
        key = (name, check, case.dtype, case.mode, case.device)
        with self._lock:
            self.spreads[key] = self.spreads.get(key, checks.Spread()) + spread

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
            self.run.unavailable[name] = reason
            self._total -= len(self._open[name])
            self._open[name].clear()
            if self._tested <= set(self.run.unavailable):  # the reference alone is nobody's question
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
      reference: the target that is the second voice, or None to do without.
      stop_at_first_failure: leave the rest unanswered once a target has failed a check.
      workers: where to take workers from; None for new ones.
      notify: called after every answered case.

    Returns:
      All results.
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
    except KeyboardInterrupt:
        board.stop()
        raise
    if board.error is not None:
        raise board.error
    return _with_verdicts(board, targets, cases, reference)


def _serve(board: _Board, workers: Workers, limits: Limits, watched: frozenset[str]) -> None:
    """One thread: holds one worker at a time, of the target that has the most left to do."""
    try:
        while name := board.most_open():
            seat = _Seat(name, workers, limits, board)
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


class _Seat:
    """A target's place in a thread: starts its worker when there is something to ask, and again after each loss."""

    def __init__(self, name: str, workers: Workers, limits: Limits, board: _Board) -> None:
        self._name, self._workers, self._limits, self._board = name, workers, limits, board
        self._worker: Worker | None = None

    def answer(self, case: Case) -> list[Result]:
        """Asks for all checks at once; if the worker is lost over that, for each group of checks by itself."""
        names = checks.checks_of(case)
        worker = self._ready()
        if case.device not in worker.devices:
            reason = f"no {case.device} here: this target runs on {', '.join(worker.devices)}"
            return [Result(self._name, case, name, NOT_RUN, detail=reason) for name in names]
        found: dict[str, Result] = {}
        separately = False
        while left := tuple(name for name in names if name not in found):
            more, lost, begun = self._ask(case, left, separately)
            found |= more
            if lost and lost.outcome == CRASH and len(checks.groups_of(begun)) > 1:
                separately = True  # one of the results ends the process: find out which
            elif lost:
                for name in begun:
                    found.setdefault(name, Result(self._name, case, name, lost.outcome, detail=lost.detail))
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
                found[check] = Result(self._name, case, check, outcome, units, of["detail"], of["raised"])
                if of["spread"]:
                    self._board.spread(self._name, case, check, checks.Spread(*of["spread"]))
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
            self._board.ready(self._name, self._worker)
        return self._worker

    def leave(self) -> None:
        """Gives the worker back."""
        if self._worker is not None:
            self._workers.give_back(self._worker)
            self._worker = None


def _with_verdicts(board: _Board, targets: Sequence[str], cases: Sequence[Case], reference: str | None) -> Run:
    voices = {
        (index, result.check): REFUSES if result.raised and result.outcome == FAIL else result.outcome
        for index, results in board.results.get(reference or "", {}).items()
        for result in results
    }
    for name in dict.fromkeys(targets):
        for index in range(len(cases)):
            for result in board.results[name].get(index, []):
                voice = voices.get((index, result.check), "")
                board.run.results.append(_verdict(result, voice) if name != reference else result)
        board.run.results.extend(_statistics(name, board.spreads))
    return board.run


def _verdict(result: Result, voice: str) -> Result:
    """The target's result with the reference's voice. That the reference refuses a case isn't a disagreement."""
    wrong = result.outcome == PASS and voice in FAILURES
    return replace(result, reference=voice, outcome=REFERENCE_WRONG if wrong else result.outcome)


def _statistics(name: str, spreads: dict[tuple[str, str, str, str, str], checks.Spread]) -> list[Result]:
    found = []
    for (target, check, dtype, mode, device), spread in sorted(spreads.items()):
        if target == name and spread.elements:
            finding = checks.statistics(spread)
            case = Case((0, 0, 0, 0), (1, 1, 1), dtype=dtype, mode=mode, device=device)
            outcome = PASS if finding.holds else FAIL
            found.append(Result(name, case, f"{checks.STATISTICS}:{check}", outcome, finding.units, finding.detail))
    return found
