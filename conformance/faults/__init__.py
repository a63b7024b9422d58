"""Planted faults: wrong implementations, each of which the quick level must catch.

A suite that can't fail proves nothing. Every fault here is this package's op with one mistake that somebody made, or
could, in a kernel, a compiler or a wrapper. `depthwise-conformance mutation` runs them and prints how many were caught.
This module imports no framework; the faults do, when they are loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

FAMILIES = ("geometry", "numbers", "gradients", "conduct")
HANGING = ("fault:hangs-on-multiplier-3",)  # those that a time limit is to catch

Op = Callable[..., Any]


def names() -> list[str]:
    """The names of all faults, as targets are named: "fault:NAME"."""
    return [f"fault:{name}" for name in _all()]


def load(name: str) -> Op:
    """The faulty op of that name, without "fault:".

    Raises:
      ValueError: there is no such fault.
    """
    found = _all()
    if name not in found:
        raise ValueError(f"target: fault must be one of {', '.join(found)}, got {name!r}")
    return found[name]


def _all() -> dict[str, Op]:
    ops: dict[str, Op] = {}
    for family in FAMILIES:
        ops |= importlib.import_module(f"{__name__}.{family}").FAULTS
    return ops
