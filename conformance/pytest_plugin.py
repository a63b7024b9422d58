"""The cases as pytest items: `pytest --pyargs depthwise.conformance --conformance-target=NAME`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial

import pytest
from depthwise.conformance import expectations
from depthwise.conformance.amounts import at_least, positive
from depthwise.conformance.case import Case, parse
from depthwise.conformance.cases import LEVELS, selection
from depthwise.conformance.process import Limits, TargetUnavailableError, Worker, Workers
from depthwise.conformance.results import EXPECTED, FAILURES, PASS, Result, Run
from depthwise.conformance.seat import Seat
from depthwise.conformance.statistics import Statistics

_SELECTING = ("--conformance-case", "--conformance-level", "--conformance-device", "--conformance-seed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of a run."""
    group = parser.getgroup("depthwise conformance")
    group.addoption("--conformance-target", action="append", help="see `depthwise-conformance targets`; repeatable")
    group.addoption("--conformance-level", choices=LEVELS, default="quick", help="how many cases; default quick")
    group.addoption(
        "--conformance-case", action="append", type=_notation, help="the notation of a case to run alone; repeatable"
    )
    group.addoption(
        "--conformance-device",
        action="append",
        type=str.upper,
        help="a device type; repeatable; default CPU and GPU, for a case the one in its notation",
    )
    group.addoption("--conformance-seed", type=at_least(0), default=0, help="of generated cases and data; default 0")
    group.addoption("--conformance-expect", metavar="FILE", help="known failures: a TOML file, or a shipped one's name")
    group.addoption("--conformance-timeout", type=positive, default=120.0, help="seconds for one case; default 120")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """An item per target and case."""
    config = metafunc.config
    if "conformance_target" in metafunc.fixturenames:
        names = config.getoption("--conformance-target") or ["depthwise"]
        metafunc.parametrize("conformance_target", names, scope="session")
    if "conformance_case" in metafunc.fixturenames:
        chosen = selection(*map(config.getoption, _SELECTING))
        metafunc.parametrize("conformance_case", chosen, ids=[str(case).replace(" ", ",") for case in chosen])


class Asked:
    """A target that the session asks, and what its answers add up to."""

    def __init__(self, target: str, limits: Limits, known: Sequence[expectations.Known]) -> None:
        self.target, self.known, self.versions = target, known, dict[str, str]()
        self.answers: list[Result] = []
        self.statistics = Statistics()
        self.seat = Seat(target, Workers(), limits, self._ready, partial(self.statistics.add, target))

    def _ready(self, worker: Worker) -> None:
        self.versions = worker.versions

    def answer(self, case: Case) -> list[Result]:
        """The results of all checks of a case."""
        results = self.seat.answer(case)
        self.answers += results
        return results

    def judge(self, results: list[Result]) -> None:
        """Fails or skips the test that calls it, or returns."""
        results = expectations.apply(Run(results, {self.target: self.versions}), self.known)[0].results
        failed = [result for result in results if result.outcome in FAILURES]
        if failed:
            pytest.fail("\n".join(map(_line, failed)), pytrace=False)
        expected = [result for result in results if result.outcome == EXPECTED]
        if expected:
            pytest.xfail("\n".join(map(_line, expected)))
        if all(result.outcome != PASS for result in results):
            pytest.skip(_line(results[0]))


@pytest.fixture(scope="session")
def asked(conformance_target: str, pytestconfig: pytest.Config) -> Iterator[Asked]:
    """The target, in a process of its own that the session's items share."""
    file = pytestconfig.getoption("--conformance-expect")
    known = expectations.read(expectations.find(file)) if file else []
    found = Asked(conformance_target, Limits(pytestconfig.getoption("--conformance-timeout")), known)
    try:
        found.seat.start()  # now: what a fixture raises pytest tells all items, without another try
    except TargetUnavailableError as error:
        pytest.fail(f"{conformance_target}: {error}", pytrace=False)
    yield found
    found.seat.leave()


def _notation(text: str) -> str:
    """The text, if it is the notation of a case; else pytest ends here, and not with a traceback from collecting."""
    try:
        parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _line(result: Result) -> str:
    return f"{result.outcome} {result.target} {result.check}: {result.detail} [{result.subject}]"
