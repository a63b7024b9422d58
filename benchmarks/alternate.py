"""Timing by turns: every entrant runs once before any runs again, so that what slows the machine slows all.

Every entrant stands in the field twice. The two medians of one and the same thing differ by noise alone, which is how
much noise there is; a difference that is not larger says nothing.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

SAMPLE_S = 1e-3
"""Least duration of a sample: what is shorter is called several times in a row, and divided."""
LEAST_ROUNDS, MOST_ROUNDS = 1, 40


@dataclass(frozen=True)
class Time:
    """How long a call takes.

    Attributes:
      wall_ms: median wall time.
      cpu_ms: median processor time of all threads.
      noise: relative difference between the medians of the two halves of the field.
      samples: how many samples the medians are of.
    """

    wall_ms: float
    cpu_ms: float
    noise: float
    samples: int


def alternate(entrants: Mapping[Key, Callable[[], object]], budget_s: float) -> dict[Key, Time]:
    """Times calls by turns.

    Args:
      entrants: what to call, by name: each call must have finished its work when it returns, and be warm already.
      budget_s: seconds after which an entrant drops out, once both its halves have run LEAST_ROUNDS times.

    Returns:
      Its time, by name.
    """
    lanes: dict[tuple[Key, int], list[tuple[float, float]]] = {(key, lane): [] for key in entrants for lane in (0, 1)}
    calls = {key: _calls_per_sample(call) for key, call in entrants.items()}
    spent = dict.fromkeys(entrants, 0.0)
    order = random.Random(0)
    for turn in range(MOST_ROUNDS):
        field = [lane for lane in lanes if turn < LEAST_ROUNDS or spent[lane[0]] < budget_s]
        if not field:
            break
        order.shuffle(field)  # what ran before leaves its mark on the caches; so let it be anything
        for key, lane in field:
            sample = _sample(entrants[key], calls[key])
            lanes[key, lane].append(sample)
            spent[key] += sample[0] * calls[key]
    return {key: _time(lanes[key, 0], lanes[key, 1]) for key in entrants}


def _calls_per_sample(call: Callable[[], object]) -> int:
    fastest = _sample(call, 1)[0]
    if fastest > SAMPLE_S:
        return 1
    fastest = min(fastest, *(_sample(call, 1)[0] for _ in range(3)))
    return max(1, round(SAMPLE_S / max(1e-7, fastest)))


def _sample(call: Callable[[], object], calls: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        call()
    return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def _time(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> Time:
    medians = [statistics.median(wall for wall, _ in half) for half in (first, second)]
    both = first + second
    return Time(
        wall_ms=1e3 * statistics.median(wall for wall, _ in both),
        cpu_ms=1e3 * statistics.median(cpu for _, cpu in both),
        noise=max(medians) / min(medians) - 1,
        samples=len(both),
    )
