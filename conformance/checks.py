"""The checks: one function per property, each of which says what it found in one line.

A check reads what a target returned and never calls the target: `worker.py` does that, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from depthwise.conformance import tolerance
from depthwise.conformance.case import Case
from depthwise.conformance.data import FIRST_ORDER, SECOND_ORDER, Problem

if TYPE_CHECKING:
    from depthwise.conformance.targets.base import Outputs

Array = npt.NDArray[Any]

_MOST_ELEMENTS = 4096  # of one result that enter the statistics, so that one large case can't outvote the rest


ENOUGH_ELEMENTS = 500


@dataclass(frozen=True)
class Spread:
    """The normalised errors of some elements, summed: how many, squares, fourth powers, and along the value's sign."""

    elements: int = 0
    squares: float = 0.0
    fourths: float = 0.0
    signed: float = 0.0

    @property
    def suffices(self) -> bool:
        """Whether these are enough for `statistics` to tell anything."""
        return self.elements >= ENOUGH_ELEMENTS

    def __add__(self, other: Spread) -> Spread:
        return Spread(
            self.elements + other.elements,
            self.squares + other.squares,
            self.fourths + other.fourths,
            self.signed + other.signed,
        )


@dataclass(frozen=True)
class Finding:
    """What a check found: whether the property holds, the worst error in units of its bound, and one line of detail.

    `raised` tells that there is no result to look at, since the target raised an error.
    """

    holds: bool
    units: float = 0.0
    detail: str = ""
    spread: Spread | None = None
    raised: bool = False


@dataclass(frozen=True)
class Evidence:
    """What the checks read: the problem, the results asked for, and two runs of the target."""

    problem: Problem
    asked: tuple[str, ...]
    first: Outputs
    second: Outputs


def _numbers(name: str) -> Callable[[Evidence], Finding]:
    """The check that the result `name` lies within the bound of the oracle's values."""

    def check(evidence: Evidence) -> Finding:
        problem, actual = evidence.problem, evidence.first.arrays.get(name)
        if actual is None:
            return Finding(False, np.inf, f"{name} is None, but should be an array")
        expected = problem.expected(name)
        if actual.shape != expected.values.shape:
            return Finding(False, np.inf, f"{name}.shape={actual.shape}, but should be {expected.values.shape}")
        units = tolerance.error_in_bounds(actual, expected.values, expected.bound, problem.case.dtype)
        if not units.size:
            return Finding(True)
        if expected.nan_too is not None:
            units = np.where(expected.nan_too & np.isnan(actual), 0.0, units)
        at = np.unravel_index(int(np.argmax(units)), units.shape)
        worst = float(units[at])
        where = f"{name}{[int(i) for i in at]}={actual[at]}, but should be {expected.values[at]}"
        detail = where if worst == np.inf else f"{where} ({worst:.3g} times the bound)"
        if worst > 1:
            return Finding(False, worst, detail)
        spread = None if expected.deviation is None else _spread(actual, expected.values, expected.deviation)
        return Finding(True, worst, spread=spread)

    return check


def _spread(actual: Array, expected: Array, deviation: Array) -> Spread:
    keep = (deviation > 0).ravel()
    error = (actual.astype(np.float64) - expected).ravel()[keep][:_MOST_ELEMENTS]
    scaled = error / deviation.ravel()[keep][:_MOST_ELEMENTS]
    signed = scaled * np.sign(expected.ravel()[keep][:_MOST_ELEMENTS])
    return Spread(scaled.size, float((scaled**2).sum()), float((scaled**4).sum()), float(signed.sum()))


def shape(evidence: Evidence) -> Finding:
    """Every result has the shape of the formula, also as it is known before running."""
    case, first = evidence.problem.case, evidence.first
    shapes = {"value": case.output_shape, "input_grad": case.input_shape, "filter_grad": case.filter_shape}
    for name, should in shapes.items():
        if name in first.arrays and first.arrays[name].shape != should:
            return Finding(False, detail=f"{name}.shape={first.arrays[name].shape}, but should be {should}")
    static = first.static_shape
    if static is not None:
        right = shapes["value"]
        if len(static) != 4 or any(s is not None and s != r for s, r in zip(static, right, strict=True)):
            return Finding(False, detail=f"value's static shape is {static}, but should be {right}")
    return Finding(True)


def dtype(evidence: Evidence) -> Finding:
    """Every result has the dtype of input and filter."""
    for name, array in evidence.first.arrays.items():
        if array.dtype != evidence.problem.dtype:
            return Finding(False, detail=f"{name}.dtype={array.dtype}, but should be {evidence.problem.dtype}")
    return Finding(True)


def determinism(evidence: Evidence) -> Finding:
    """A second run of the same function on the same arrays gives the same bits."""
    for name, array in evidence.first.arrays.items():
        again = evidence.second.arrays.get(name)
        if again is None:
            return Finding(False, detail=f"{name} is None in a second run on the same arrays")
        if array.shape != again.shape or array.tobytes() != again.tobytes():
            return Finding(False, detail=f"{name} differs between two runs on the same arrays")
    return Finding(True)


def inputs_untouched(evidence: Evidence) -> Finding:
    """The input and the filter hold after the run what they held before."""
    for outputs in (evidence.first, evidence.second):
        before = (evidence.problem.x, evidence.problem.w)
        for name, old, new in zip(("input", "filter"), before, outputs.inputs_after, strict=True):
            if old.tobytes() != new.tobytes():
                return Finding(False, detail=f"{name} was overwritten")
    return Finding(True)


ON_EVERY_RESULT: dict[str, Callable[[Evidence], Finding]] = {
    "shape": shape,
    "dtype": dtype,
    "determinism": determinism,
    "inputs_untouched": inputs_untouched,
}
CHECKS: dict[str, Callable[[Evidence], Finding]] = {
    **{name: _numbers(name) for name in (*FIRST_ORDER, *SECOND_ORDER)},
    **ON_EVERY_RESULT,
}
REFUSAL = "refusal"  # made by the worker: what is checked is that the call raises
STATISTICS = "statistics"  # over all cases of a run: see `statistics`


def checks_of(case: Case) -> tuple[str, ...]:
    """The names of the checks that a case stands for.

    Example:
      >>> from depthwise.conformance.case import parse
      >>> checks_of(parse("in=1x1x1x1 filter=1x1x1 dtype=int8"))
      ('value', 'shape', 'dtype', 'determinism', 'inputs_untouched')
    """
    if case.bad:
        return (REFUSAL,)
    differentiable = "int" not in case.dtype
    gradients = FIRST_ORDER[1:] if differentiable else ()
    return ("value", *gradients, *(SECOND_ORDER if case.order == 2 and differentiable else ()), *ON_EVERY_RESULT)


Groups: TypeAlias = "list[tuple[tuple[str, ...], tuple[str, ...]]]"
"""(checks, results) pairs."""


def groups_of(names: tuple[str, ...]) -> Groups:
    """Checks grouped by the results that they need by themselves.

    A target that fails or crashes in one result is run group by group, so that the others are still judged.
    """
    together = tuple(name for name in names if name == "value" or name in ON_EVERY_RESULT)
    groups: Groups = [(together, ("value",))] if together else []
    groups += [((name,), (name,)) for name in names if name in FIRST_ORDER[1:] or name in SECOND_ORDER]
    return groups


def results_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """All results that these checks need."""
    return tuple(result for _, results in groups_of(names) for result in results)


def repeating(names: tuple[str, ...]) -> str:
    """Of these checks, the one that fails where a target does not do the same again."""
    return "determinism" if "determinism" in names else names[0]


def statistics(spread: Spread) -> Finding:
    """Whether errors are as small and as unbiased as correct rounding makes them (`tolerance`, *Statistics*).

    Args:
      spread: the normalised errors of one kind of result, over cases that suffice. Their mean square should be at
        most 1, and their mean along the sign of the value 0. Six standard errors are allowed for chance: one false
        alarm in 10**9.

    Returns:
      The finding; `units` is the root of the mean square.
    """
    n = spread.elements
    mean = spread.squares / n
    allowed = 1 + 6 * np.sqrt(max(spread.fourths / n - mean**2, 0.0) / n)
    bias = spread.signed / n
    slack = 6 * np.sqrt(max(mean - bias**2, 0.0) / n)
    root = float(np.sqrt(mean))
    if mean > allowed:
        detail = f"root mean square error is {root:.3g} deviations over {n} elements, but should be at most 1"
        return Finding(False, root, detail)
    if abs(bias) > slack:
        detail = f"mean error along the value's sign is {bias:.3g} deviations over {n} elements, but should be 0"
        return Finding(False, root, f"{detail} (+- {slack:.2g})")
    return Finding(True, root)
