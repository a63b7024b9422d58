"""The process in which one target runs: reads cases from standard input, answers with findings, line by line in JSON.

Whatever a target does to its process (abort, hang, write to standard output) happens here and not in the run. Requests
and answers:

    {"hello": {"devices": ["CPU"], "versions": {...}}}   the target is there, and can be asked
    {"cannot": "ImportError: ..."}                       or it cannot be had, and this process ends

    {"case": "in=... filter=...", "checks": ["value", ...], "separately": false}
    {"begin": ["value", ...]}      these checks are being computed: a crash from here on is theirs
    {"found": {"check": "value", "outcome": "PASS", "units": 0.1, "detail": "", "raised": false, "shown_by": [],
     "spread": null}}
    {"end": true}                  the request is answered

    {"target": "fault:..."}        serve this target from now on
    {"switched": "fault:..."}      so it is
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np
from depthwise.conformance.case import parse
from depthwise.conformance.checks import (
    CHECKS,
    ON_EVERY_RESULT,
    REFUSAL,
    Evidence,
    Finding,
    Groups,
    groups_of,
    repeating,
    results_of,
)
from depthwise.conformance.data import Problem
from depthwise.conformance.results import FAIL, PASS, UNSUPPORTED, printable
from depthwise.conformance.targets import resolve
from depthwise.conformance.targets.base import Target

# What a refusal may be. Anything else (an abort, an internal error, an assertion) is a failure to refuse.
_REFUSALS = ("ValueError", "TypeError", "InvalidArgumentError", "UnimplementedError")


def main(target_name: str) -> None:
    """Serves requests until standard input ends.

    Args:
      target_name: see `targets.resolve`.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # there is nothing to read for a target
    os.dup2(2, 1)  # and what it prints goes to standard error
    try:
        target = resolve(target_name)
        hello = {"devices": target.devices(), "versions": target.versions()}
    except Exception as error:
        _send(answers, {"cannot": _line(error)})
        return
    _send(answers, {"hello": hello})
    for request in map(json.loads, requests):
        if "target" in request:
            target = resolve(request["target"])
            _send(answers, {"switched": request["target"]})
            continue
        _answer(answers, target, Problem(parse(request["case"])), tuple(request["checks"]), request["separately"])
        _send(answers, {"end": True})


def _end_with(run: int) -> None:
    """Ends this process when the run's has ended, whatever a target is doing."""
    while os.getppid() == run:
        time.sleep(0.5)
    os._exit(1)


def _answer(answers: TextIO, target: Target, problem: Problem, checks: tuple[str, ...], separately: bool) -> None:
    if checks == (REFUSAL,):
        _send(answers, {"begin": checks})
        _found(answers, REFUSAL, *_refusal(target, problem))
        return
    groups = groups_of(checks)
    if not separately and len(groups) > 1:
        _send(answers, {"begin": checks})
        try:
            evidence = _evidence(target, problem, results_of(checks))
        except Exception as error:
            if not _each_group(answers, target, problem, groups):
                return  # one of the results fails, by itself too
            detail = f"raised {_line(error)} when all results were asked for at once, and nothing for each by itself"
            finding = Finding(False, detail=detail, raised=True)
            _found(answers, repeating(checks), FAIL, finding, shown_by=results_of(checks))
        else:
            for check in checks:
                _judge(answers, [evidence], check)
        return
    _each_group(answers, target, problem, groups)


def _each_group(answers: TextIO, target: Target, problem: Problem, groups: Groups) -> bool:
    """Judges the checks of each group by itself, and those on every result when all are there that can be had.

    Returns:
      Whether the target had a result for all of them.
    """
    obtained: list[Evidence] = []
    of_every_result: list[str] = []
    for members, results in groups:
        _send(answers, {"begin": members})
        try:
            evidence = _evidence(target, problem, results)
        except NotImplementedError as error:
            for check in members:
                _found(answers, check, UNSUPPORTED, Finding(False, detail=_line(error)))
        except Exception as error:
            for check in members:
                _found(answers, check, FAIL, Finding(False, detail=f"raised {_line(error)}", raised=True))
        else:
            obtained.append(evidence)
            of_every_result += [check for check in members if check in ON_EVERY_RESULT]
            for check in members:
                if check not in ON_EVERY_RESULT:
                    _judge(answers, [evidence], check)
    for check in of_every_result:
        _judge(answers, obtained, check)
    return len(obtained) == len(groups)


def _evidence(target: Target, problem: Problem, results: tuple[str, ...]) -> Evidence:
    run = target.prepare(problem, results)
    return Evidence(problem, results, run(), run())


def _judge(answers: TextIO, evidences: Sequence[Evidence], check: str) -> None:
    """Makes a check on each evidence; what is found is the first failure."""
    with np.errstate(all="ignore"):  # whatever a target has set: a bound may underflow
        findings = [CHECKS[check](evidence) for evidence in evidences]
    at = next((at for at, finding in enumerate(findings) if not finding.holds), 0)
    shown_by = evidences[at].asked if check in ON_EVERY_RESULT else ()
    _found(answers, check, PASS if findings[at].holds else FAIL, findings[at], shown_by=shown_by)


def _refusal(target: Target, problem: Problem) -> tuple[str, Finding]:
    try:
        result = target.call_malformed(problem)
    except NotImplementedError as error:
        return UNSUPPORTED, Finding(False, detail=_line(error))
    except Exception as error:
        if any(kind.__name__ in _REFUSALS for kind in type(error).__mro__):
            return PASS, Finding(True)
        return FAIL, Finding(
            False, raised=True, detail=f"raised {_line(error)}, but should raise one of {', '.join(_REFUSALS)}"
        )
    shape = getattr(result, "shape", None)
    return FAIL, Finding(False, detail=f"returned a result of shape {shape}, but should refuse {problem.case.bad}")


def _found(answers: TextIO, check: str, outcome: str, finding: Finding, *, shown_by: tuple[str, ...] = ()) -> None:
    spread = finding.spread and dataclasses.astuple(finding.spread)
    found = {"check": check, "outcome": outcome, "units": finding.units, "detail": finding.detail}
    _send(answers, {"found": {**found, "raised": finding.raised, "shown_by": shown_by, "spread": spread}})


def _send(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")


def _line(error: BaseException) -> str:
    # TensorFlow puts the graph's stack before what it has to say.
    noise = ("Graph execution error", "Detected at node", "  File ", "Stack trace")
    said = [line for line in str(error).splitlines() if line.strip() and not line.startswith(noise)]
    return f"{type(error).__name__}: {printable(' '.join(' '.join(said).split()))[:300]}"


if __name__ == "__main__":
    main(sys.argv[1])
