"""The chooser: a table from conditions to lowerings, with the reason and the measurement behind each row.

A plan is made when the op is traced (or called eagerly), contraction by contraction: the first row whose condition
holds and whose lowering does not refuse. `explain` prints the same rows without running anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import tensorflow as tf
from depthwise.ops.gradients import Plan
from depthwise.ops.lowerings import LOWERINGS
from depthwise.ops.lowerings.base import CONTRACTIONS, Contraction, Lowering, Mode
from depthwise.ops.spec import FLOATS, ConvSpec, argument_error, shown

try:  # Private: TensorFlow offers no public way to ask. tests/ops/test_choose.py notices if a release changes it.
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
except ImportError:  # pragma: no cover

    def GraphOrParentsInXlaContext(graph: tf.Graph) -> bool:  # noqa: N802
        return False


@dataclass(frozen=True)
class Row:
    """One row of the table: where `condition` holds, `lowering` is taken, for `reason`, as `evidence` shows."""

    lowering: str
    condition: Callable[[ConvSpec, Contraction, Mode], bool]
    reason: str
    evidence: str


ISLAND_TAPS = 25
"""Fewest taps for which an island computes the filter gradient, where nothing is dilated."""
ISLAND_PRODUCTS = 2**22
"""Fewest products whose sum is worth the second that an island takes to compile."""


def _pays_for_an_island(spec: ConvSpec, contraction: Contraction, mode: Mode) -> bool:
    if mode != "graph" or spec.may_be_empty or tf.config.list_physical_devices("GPU"):
        return False
    taps = spec.rows.taps * spec.cols.taps
    dilated = spec.rows.rate > 1 or spec.cols.rate > 1
    slow = contraction != "output" and (dilated or (contraction == "filter_grad" and taps >= ISLAND_TAPS))
    products = prod(dim or 0 for dim in spec.output_shape) * taps
    return bool(slow and products >= ISLAND_PRODUCTS)


TABLE: tuple[Row, ...] = (
    Row(
        "taps",
        lambda spec, contraction, mode: spec.dtype not in FLOATS,
        "TensorFlow has no convolution kernel for integer and complex dtypes",
        "the kernels' registered dtypes",
    ),
    Row(
        "taps",
        lambda spec, contraction, mode: mode == "xla",
        "traced for XLA, which emits TensorFlow's convolution as a naive loop and fuses taps into a few passes",
        "stock 147 ms, taps 1.0 ms: (8,112,112,32), 3x3, float32, 2 CPU cores",
    ),
    Row(
        "island",
        _pays_for_an_island,
        "TensorFlow's kernels are slow at this gradient; sizes are known and large, so that compiling it once pays",
        "native and island: 6.2 and 1.9 ms, filter gradient of 8x28x28x192 k5; 5.5 and 1.8, 5.4 and 2.9, input and "
        "filter gradient of 8x56x56x128 k3 d2; float32, 2 CPU cores (python -m benchmarks --case, --mode graph)",
    ),
    Row(
        "native",
        lambda spec, contraction, mode: True,
        "traced outside XLA, where TensorFlow's own kernels make one pass and taps would make one pass per tap",
        "native 1.2 ms, taps 30 times that: (8,112,112,32), 3x3, float32, 2 CPU cores",
    ),
    Row(
        "taps",
        lambda spec, contraction, mode: True,
        "what TensorFlow's kernels cannot do is written out, at one pass per tap outside XLA",
        "none: nothing else does these cases",
    ),
)


@dataclass(frozen=True)
class Choice:
    """The lowering that a contraction takes, and why."""

    contraction: Contraction
    lowering: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """What `depthwise_conv2d` would do with the same arguments at the same place. Print it, or read its fields."""

    output: Choice
    input_grad: Choice
    filter_grad: Choice

    def __str__(self) -> str:
        choices = (self.output, self.input_grad, self.filter_grad)
        return "\n".join(f"{c.contraction:<12} {c.lowering:<8} {c.reason}" for c in choices)


def check_lowering(lowering: object) -> None:
    """Refuses a `lowering` that is none.

    Raises:
      TypeError, ValueError: not a string, or not one of the names.
    """
    if not isinstance(lowering, str) or lowering not in ("auto", *LOWERINGS):
        kind = ValueError if isinstance(lowering, str) else TypeError
        names = ", ".join(repr(name) for name in ("auto", *LOWERINGS))
        raise argument_error("lowering", f"be one of {names}", shown(lowering), "'auto' takes every case.", kind)


def current_mode() -> Mode:
    """Where this is called: in eager code, or in code that is traced, for XLA (`jit_compile=True`, here or further out)
    or not."""
    if tf.executing_eagerly():
        return "eager"
    return "xla" if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()) else "graph"


@lru_cache(maxsize=4096)
def explanation(spec: ConvSpec, lowering: str, mode: Mode) -> Explanation:
    """The choice for each contraction.

    Raises:
      NotImplementedError: the lowering was asked for by name, and cannot do the case.
    """
    check_lowering(lowering)
    return Explanation(*(_choice(spec, lowering, mode, contraction) for contraction in CONTRACTIONS))


@lru_cache(maxsize=4096)
def plan(spec: ConvSpec, lowering: str, mode: Mode) -> Plan:
    """The lowering for each contraction, as `explanation` says."""
    chosen = explanation(spec, lowering, mode)
    return Plan(*(LOWERINGS[c.lowering] for c in (chosen.output, chosen.input_grad, chosen.filter_grad)))


def _choice(spec: ConvSpec, lowering: str, mode: Mode, contraction: Contraction) -> Choice:
    if lowering != "auto":
        refusal = LOWERINGS[lowering].refuses(spec, contraction, mode)
        if refusal:
            raise NotImplementedError(f"depthwise_conv2d lowering {lowering!r} cannot compute {contraction}: {refusal}")
        return Choice(contraction, lowering, "asked for by name")
    refusals: list[str] = []
    for row in TABLE:
        if row.condition(spec, contraction, mode):
            refusal = LOWERINGS[row.lowering].refuses(spec, contraction, mode)
            if refusal is None:
                return Choice(contraction, row.lowering, "; ".join([row.reason, *refusals]))
            refusals.append(f"{row.lowering} refused: {refusal}")
    raise AssertionError(f"no row of the table takes {spec}")


__all__ = ["TABLE", "Choice", "Explanation", "Lowering", "check_lowering", "current_mode", "explanation", "plan"]
