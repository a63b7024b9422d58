"""Expectations: known failures in a TOML file, each with its reason and the conditions under which it is known.

    [[known]]
    target = "tf"
    when = "strides != (1, 1) and dilations != (1, 1)"  # see `condition`; or cases = ["in=...", ...]
    checks = ["value", "shape"]                          # left out: any check
    outcomes = ["FAIL"]                                  # left out: any failure
    onednn = true                                        # left out: with and without
    device = "CPU"                                       # left out: any
    tensorflow = "2.21"                                  # the version starts so; left out: any
    issues = ["tensorflow#33005"]
    reason = "space-to-batch is applied before the strides"

A failure that an entry covers is EXPECTED. An entry is stale, which is an error, if it lists cases and one of them
passes a check that it covers, or none fails so; or if it has a condition, covers enough checks to judge by (statistics,
which are over many cases, are enough), and none of them fails so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tomlkit
from depthwise.conformance.case import Case, parse
from depthwise.conformance.checks import CHECKS, REFUSAL, STATISTICS
from depthwise.conformance.condition import condition
from depthwise.conformance.data import FIRST_ORDER, SECOND_ORDER
from depthwise.conformance.results import EXPECTED, FAILURES, NOT_RUN, UNSUPPORTED, Result, Run

_ENOUGH = 20  # checks that a condition must cover before it can be called stale: not all that it covers need fail
_LISTS: dict[str, tuple[str, ...]] = {
    "cases": (),  # read by `case.parse`
    "checks": (*CHECKS, REFUSAL, *(f"{STATISTICS}:{name}" for name in (*FIRST_ORDER, *SECOND_ORDER))),
    "outcomes": FAILURES,
    "issues": (),
}
"""Keys whose values are lists, and the words that these may hold: () for any."""
_KEYS = ("target", "when", "cases", "checks", "outcomes", "onednn", "device", "tensorflow", "issues", "reason")


@dataclass(frozen=True)
class Known:
    """One entry of a file: see the module's docstring for what its attributes mean."""

    target: str
    reason: str
    when: str = ""
    cases: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = FAILURES
    onednn: bool | None = None
    device: str = ""
    tensorflow: str = ""
    issues: tuple[str, ...] = ()

    @cached_property
    def _listed(self) -> frozenset[Case]:
        return frozenset(parse(text) for text in self.cases)

    @cached_property
    def _condition(self) -> Any:
        return condition(self.when) if self.when else None

    def applies(self, run: Run) -> bool:
        """Whether the run is of the version and build that the entry is about."""
        versions = run.versions.get(self.target, {})
        return versions.get("tensorflow", "").startswith(self.tensorflow) and self.onednn in (
            None,
            versions.get("onednn") == "on",
        )

    def covers(self, result: Result) -> bool:
        """Whether the entry speaks about this check, however it came out."""
        if result.target != self.target or (self.checks and result.check not in self.checks):
            return False
        if self.device and result.case.device != self.device:
            return False
        if result.statistical:
            return bool(self._condition and self.checks and self._condition(result.case))
        return result.case in self._listed or bool(self._condition and self._condition(result.case))


def find(name: str) -> Path:
    """The path of a shipped file by its name without ".toml", or of any other file."""
    shipped = Path(__file__).parent / "known" / f"{name}.toml"
    return shipped if shipped.exists() else Path(name)


def read(path: Path) -> list[Known]:
    """The entries of a file.

    Raises:
      ValueError: it is no such file; the message names the entry.
    """
    try:
        document = tomlkit.parse(path.read_text()).unwrap()
    except (OSError, tomlkit.exceptions.TOMLKitError) as error:
        raise ValueError(f"expectations: {path} must be a TOML file, got {error}") from None
    entries = []
    tables = document.get("known", [])
    if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
        raise ValueError(f"expectations: {path} must hold its entries under [[known]], got {tables!r}")
    for number, entry in enumerate(tables, 1):
        unknown = set(entry) - set(_KEYS)
        if unknown or not {"target", "reason"} <= set(entry) or ("when" in entry) == ("cases" in entry):
            rule = f"have target, reason, one of when and cases, and no other keys than {', '.join(_KEYS)}"
            raise ValueError(f"expectations: entry {number} of {path} must {rule}, got {', '.join(entry)}")
        for key, value in entry.items():
            _check(key, value, f"expectations: `{key}` of entry {number} of {path}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        known = Known(**values)
        try:  # read here, so that a mistake is reported with the file
            if known.when:
                condition(known.when)
            for text in known.cases:
                parse(text)
        except ValueError as error:
            raise ValueError(f"expectations: entry {number} of {path}: {error}") from None
        entries.append(known)
    return entries


def _check(key: str, value: object, what: str) -> None:
    """Raises ValueError for a value that would cover nothing, or something else than it says."""
    if key == "onednn":
        if not isinstance(value, bool):
            raise ValueError(f"{what} must be true or false, got {value!r}")
    elif key not in _LISTS:
        if not isinstance(value, str):
            raise ValueError(f"{what} must be a string, got {value!r}")
    elif not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise ValueError(f"{what} must be a non-empty list of strings, got {value!r}")
    elif (known := _LISTS[key]) and (unknown := set(value) - set(known)):
        raise ValueError(f"{what} must be of {', '.join(known)}, got {', '.join(sorted(unknown))}")


def apply(run: Run, entries: Sequence[Known]) -> tuple[Run, list[str]]:
    """Marks the failures that are known.

    Args:
      run: what was found.
      entries: what is known; those about other versions, builds or targets are left aside.

    Returns:
      The run with known failures as EXPECTED, and one line for each stale entry.
    """
    relevant = [entry for entry in entries if entry.applies(run)]
    covered: list[list[Result]] = [[] for _ in relevant]
    results = []
    for result in run.results:
        covering = [index for index, entry in enumerate(relevant) if entry.covers(result)]
        for index in covering:
            covered[index].append(result)
        if known := [relevant[index] for index in covering if result.outcome in relevant[index].outcomes]:
            detail = f"{known[0].reason} ({', '.join(known[0].issues) or 'no issue'}): {result.detail}"
            result = replace(result, outcome=EXPECTED, detail=detail, was=result.outcome)
        results.append(result)
    reasons = [(entry, _stale(entry, made)) for entry, made in zip(relevant, covered, strict=True)]
    stale = [f"{entry.target}, {entry.reason}: {reason}" for entry, reason in reasons if reason]
    return replace(run, results=results), stale


def _stale(entry: Known, covered: Sequence[Result]) -> str:
    """Why an entry is stale, by all results that it covers, as they came out; "" where it isn't."""
    made = [result for result in covered if result.outcome not in (UNSUPPORTED, NOT_RUN)]
    good = [result for result in made if result.outcome not in FAILURES]
    if entry.cases and good:
        return f"{good[0].check} passes for {good[0].subject}"
    enough = made if entry.cases else len(good) >= _ENOUGH or any(result.statistical for result in good)
    if not enough or any(result.outcome in entry.outcomes for result in made):
        return ""
    return f"none of {len(made)} checks fails so" + (f" where {entry.when}" if entry.when else "")


def update(path: Path, run: Run, entries: Iterable[Known]) -> tuple[int, int]:
    """Writes what a run found into a file: stale entries are taken out, and failures that none is left for appended.

    Args:
      path: the file; what else it holds, comments included, is kept. Made if it doesn't exist.
      run: what was found, after `apply`.
      entries: what `read` gave for the file, in its order; none for a new one.

    Returns:
      How many entries were appended, and how many taken out.
    """
    document = tomlkit.parse(path.read_text()) if path.exists() else tomlkit.document()
    tables = document.get("known") or tomlkit.aot()  # an empty list, as one may be written, is no array of tables
    made = [replace(result, outcome=result.was, was="") if result.was else result for result in run.results]
    kept: list[Known] = []
    removed = 0
    for number, entry in reversed(list(enumerate(entries))):
        if entry.applies(run) and _stale(entry, [result for result in made if entry.covers(result)]):
            del tables[number]
            removed += 1
        else:
            kept.append(entry)
    groups: dict[tuple[str, str, str, str], list[Result]] = defaultdict(list)
    left, _ = apply(replace(run, results=made), kept)
    for result in left.results:
        if result.outcome in FAILURES:
            groups[result.target, result.subject, result.outcome, result.detail].append(result)
    for (target, _, outcome, detail), results in groups.items():
        table = tomlkit.table()
        table.update({"target": target, **_where(results[0]), "checks": [result.check for result in results]})
        table.update({"outcomes": [outcome], "reason": detail})
        tables.append(table)
    document.pop("known", None)
    if tables:  # an empty one would be written as a list, to which none can be appended
        document["known"] = tables
    path.write_text(tomlkit.dumps(document))
    return len(groups), removed


def _where(result: Result) -> dict[str, Any]:
    """The keys by which an entry covers a result of this case, or these statistics."""
    case = result.case
    if not result.statistical:
        return {"cases": [str(case)]}
    return {"when": f"dtype == {case.dtype!r} and mode == {case.mode!r}", "device": case.device}
