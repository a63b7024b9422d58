"""One framework in a process of its own: reads what to measure from stdin, writes measurements to stdout as JSON.

The first line out is `{"version": "...", "implementations": [...]}`; then one line per case and quantity, with a
list of measurements. What runs in one framework is timed by turns; frameworks are not, as their thread pools would
stand in each other's way.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from benchmarks.alternate import alternate
from benchmarks.case import Case, parse
from benchmarks.measurement import Measurement, setting


def measure(
    framework: Any, case: Case, quantity: str, runners: list[tuple[str, str]], budget_s: float, memory: bool
) -> list[Measurement]:
    """One quantity of one case, by all implementations in all modes.

    Args:
      framework: a module of `benchmarks.frameworks`.
      runners: pairs of implementation and mode.
      budget_s: seconds for each.
      memory: whether to measure the peak memory too.
    """
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    first: dict[tuple[str, str], float] = {}
    errors: dict[tuple[str, str], str] = {}
    for runner in runners:
        try:
            call = framework.prepare(case, *runner, quantity)
            start = time.perf_counter()
            result = call()
            first[runner] = time.perf_counter() - start
            shape = tuple(getattr(result, "shape", case.output_shape))
            if quantity == "output" and len(shape) == 4 and shape != case.output_shape:
                raise ArithmeticError(f"output of shape {shape} instead of {case.output_shape}")
            del result
            call()
        except Exception as error:
            errors[runner] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        else:
            calls[runner] = call
    times = alternate(calls, budget_s)
    peaks = {runner: framework.peak_mb(call) if memory else None for runner, call in calls.items()}
    common = {"case": str(case), "quantity": quantity, **setting()}
    found = []
    for runner in runners:
        implementation, mode = runner
        m = Measurement(**common, implementation=implementation, mode=mode, error=errors.get(runner))
        if runner in times:
            figures = {"first_s": first[runner], "peak_mb": peaks[runner], **asdict(times[runner])}
            m = Measurement(**{**asdict(m), **figures})
        found.append(m)
    return found


def main() -> None:
    request = json.load(sys.stdin)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no reply
    framework = importlib.import_module(f"benchmarks.frameworks.{request['framework']}")
    implementations = framework.IMPLEMENTATIONS
    library = importlib.import_module(request["framework"])
    print(json.dumps({"version": library.__version__, "implementations": [*implementations]}), file=replies, flush=True)
    wanted = request["implementations"] or list(implementations)
    # A whole step first, and this op before what shares its functions: its first call is to find nothing traced.
    quantities = sorted(request["quantities"], key=lambda quantity: quantity != "step")
    for text in request["cases"]:
        for quantity in quantities:
            modes = request["modes"]
            runners = [(name, mode) for name in implementations if name in wanted for mode in modes]
            runners = [(name, mode) for name, mode in runners if mode in implementations[name]]
            memory = quantity in ("output", "step")
            found = measure(framework, parse(text), quantity, runners, request["budget_s"], memory)
            print(json.dumps([asdict(m) for m in found]), file=replies, flush=True)
            gc.collect()


if __name__ == "__main__":
    main()
