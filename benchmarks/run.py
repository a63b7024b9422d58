"""Runs the workers, one after the other, and yields what they measure."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measurement

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("torch", "jax")


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
      cases: in one line each.
      implementations: names; None for all that a framework has.
      budget_s: seconds per implementation, mode, case and quantity.
      threads: processors to use; None for all.
      pythons: for each peer, a Python that has it, where that is another than this one.
    """

    cases: tuple[str, ...]
    quantities: tuple[str, ...]
    modes: tuple[str, ...]
    implementations: tuple[str, ...] | None = None
    frameworks: tuple[str, ...] = ("tensorflow", *PEERS)
    budget_s: float = 0.3
    threads: int | None = None
    pythons: tuple[tuple[str, str], ...] = ()

    @property
    def steps(self) -> int:
        """Replies that a worker sends when nothing goes wrong."""
        return len(self.cases) * len(self.quantities)


@dataclass(frozen=True)
class Reply:
    """What a worker said (first of all, its version and the implementations it has), or why it says nothing more."""

    framework: str
    measurements: tuple[Measurement, ...] = ()
    version: str | None = None
    implementations: tuple[str, ...] = ()
    failure: str | None = None


def run(request: Request) -> Iterator[Reply]:
    """Starts a worker per framework and yields its replies as they come."""
    for framework in request.frameworks:
        yield from _worker(request, framework)


def _worker(request: Request, framework: str) -> Iterator[Reply]:
    python = dict(request.pythons).get(framework, sys.executable)
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    order: dict[str, Any] = {
        "framework": framework,
        "cases": request.cases,
        "quantities": request.quantities,
        "modes": request.modes,
        "implementations": request.implementations,
        "budget_s": request.budget_s,
    }
    cpus = sorted(os.sched_getaffinity(0))[: request.threads]
    with (
        tempfile.TemporaryFile("w+") as errors,  # not a pipe, which would fill up and block the worker
        subprocess.Popen(
            [python, "-m", "benchmarks.worker"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        ) as process,
    ):
        assert process.stdin and process.stdout
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(order))
                process.stdin.close()
            for line in process.stdout:
                reply = json.loads(line)
                if isinstance(reply, dict):
                    yield Reply(framework, version=reply["version"], implementations=tuple(reply["implementations"]))
                else:
                    yield Reply(framework, tuple(Measurement(**fields) for fields in reply))
        except BaseException:
            process.terminate()
            raise
        if process.wait() != 0:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            yield Reply(framework, failure=f"exit status {process.returncode}: {last}")


def summary(measurements: Sequence[Measurement]) -> dict[tuple[str, str], dict[tuple[str, str], Measurement]]:
    """Measurements by (case, quantity), then by (implementation, mode), in the order in which they came."""
    table: dict[tuple[str, str], dict[tuple[str, str], Measurement]] = {}
    for m in measurements:
        table.setdefault((m.case, m.quantity), {})[m.implementation, m.mode] = m
    return table
