"""What the speed is to be, as data: a ratio, over which cases, and its limit. Nothing here is a measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from benchmarks.case import Case
from benchmarks.measurement import Measurement
from benchmarks.suites import Row, suite

Runner: TypeAlias = tuple[str, str]
"""Implementation and mode."""

MODELS = ("MobileNetV2 96x96", "EfficientNetB0", "ConvNeXtTiny")


@dataclass(frozen=True)
class Goal:
    """A ratio that must stay below a limit.

    Attributes:
      text: what it is about.
      suites: names of suites at batch 8, or of models.
      quantity: "output", "step" and so on.
      ours, against: what is divided by what; against None takes the figure of `ours` as it is.
      limit: the most that is allowed.
      metric: which figure of a measurement.
      worst: the largest ratio counts, not their geometric mean.
      kernels: heights of the filters that count; empty for all.
      near: the divisor is measured on the case that a variation varies, both per byte moved.
      only: of a variation suite, which variations count.
      onednn: whether TensorFlow uses oneDNN.
    """

    text: str
    suites: tuple[str, ...]
    quantity: str
    ours: Runner
    against: Runner | None
    limit: float
    metric: Literal["wall_ms", "first_s", "peak_mb"] = "wall_ms"
    worst: bool = False
    kernels: tuple[int, ...] = ()
    near: bool = False
    only: str = ""
    onednn: bool = True


class Verdict(NamedTuple):
    """A goal's ratio, how many of its cases were measured out of how many, and the worst case among them."""

    ratio: float | None
    measured: int
    cases: int
    worst_case: str
    worst_ratio: float


_OURS, _STOCK = "depthwise", "tf.nn"
_LAYERS = ("mobilenetv2", "efficientnetb0", "convnexttiny")
_XLA, _GRAPH = (_OURS, "xla"), (_OURS, "graph")
_STOCK_XLA, _STOCK_GRAPH = (_STOCK, "xla"), (_STOCK, "graph")


def _under_xla() -> list[Goal]:
    found = [
        Goal(f"XLA {q}, to tf.nn under XLA", _LAYERS, q, _XLA, _STOCK_XLA, limit)
        for q, limit in (("output", 0.015), ("step", 0.02))
    ]
    for quantity, limits in (("output", {3: 1.25, 5: 1.6, 7: 2.0}), ("step", {3: 1.2, 5: 0.7, 7: 0.7})):
        for k, limit in limits.items():
            text = f"XLA {quantity} {k}x{k}, to tf.nn in a graph"
            found.append(Goal(text, _LAYERS, quantity, _XLA, _STOCK_GRAPH, limit, kernels=(k,)))
    for quantity in ("output", "step"):
        text = f"XLA {quantity}, each variation per byte, to its nearest everyday case"
        found.append(
            Goal(text, ("variations", "dilated"), quantity, _XLA, _XLA, 1.6, worst=True, near=True, only="any")
        )
    for ks, limit, suites in (((3,), 2.0, _LAYERS), ((5, 7), 4.0, _LAYERS), ((31,), 10.0, ("replknet",))):
        name = " and ".join(f"{k}x{k}" for k in ks)
        text = f"XLA step {name}, first call in seconds"
        found.append(Goal(text, suites, "step", _XLA, None, limit, "first_s", worst=True, kernels=ks))
    text = "XLA step, peak memory, to tf.nn under XLA"
    found.append(Goal(text, _LAYERS, "step", _XLA, _STOCK_XLA, 1.0, "peak_mb", worst=True))
    return found


def _models() -> list[Goal]:
    rows = [
        ("train", ("keras", "xla"), 0.2, "wall_ms"),
        ("train", ("keras", "graph"), 0.65, "wall_ms"),
        ("predict", ("keras", "xla"), 0.15, "wall_ms"),
        ("predict", ("keras", "graph"), 0.6, "wall_ms"),
        ("train", ("keras", "xla"), 2.0, "first_s"),
    ]
    found = []
    for model in MODELS:
        for quantity, against, limit, metric in rows:
            what = "first step" if metric == "first_s" else quantity
            mode = "jitted" if against[1] == "xla" else "in a plain graph"
            text = f"{model}, {what} jitted, to Keras's layers {mode}"
            found.append(Goal(text, (model,), quantity, _XLA, against, limit, metric))  # type: ignore[arg-type]
    return found


def _outside_xla() -> list[Goal]:
    found = []
    for onednn in (True, False):
        build = "" if onednn else " without oneDNN"
        limit = 1.0 if onednn else 0.5
        for mode in ("eager", "graph"):
            for quantity in ("output", "step"):
                for name in ("mobilenetv2", "efficientnetb0"):
                    text = f"{mode} {quantity}, {name}{build}, to tf.nn"
                    ours, stock = (_OURS, mode), (_STOCK, mode)
                    found.append(Goal(text, (name,), quantity, ours, stock, limit, onednn=onednn))
        for quantity in ("output", "step"):
            text = f"graph {quantity}, dilated{build}, to tf.nn"
            found.append(Goal(text, ("dilated",), quantity, _GRAPH, _STOCK_GRAPH, 0.25, onednn=onednn))
            text = f"graph {quantity}, NCHW, strides, float64{build}, per byte, to tf.nn's nearest case"
            found.append(
                Goal(
                    text,
                    ("variations",),
                    quantity,
                    _GRAPH,
                    _STOCK_GRAPH,
                    1.3,
                    worst=True,
                    near=True,
                    only="unusual",
                    onednn=onednn,
                )
            )
    found += [
        Goal("eager call on 1x8x8x8", ("tiny",), "output", (_OURS, "eager"), (_STOCK, "eager"), 0.45),
        Goal(
            "eager layer call on 1x8x8x8, to Keras's",
            ("tiny",),
            "output",
            ("depthwise layer", "eager"),
            ("keras layer", "eager"),
            0.45,
        ),
        Goal(
            "graph filter gradient of 5x5 and 7x7, to tf.nn",
            _LAYERS,
            "filter_grad",
            _GRAPH,
            _STOCK_GRAPH,
            0.5,
            kernels=(5, 7),
        ),
        Goal(
            "graph filter gradient of 31x31, to tf.nn",
            ("replknet",),
            "filter_grad",
            _GRAPH,
            _STOCK_GRAPH,
            0.5,
            kernels=(31,),
        ),
        Goal("graph output, NCHW, to tf.nn", ("variations",), "output", _GRAPH, _STOCK_GRAPH, 0.6, only="NCHW"),
        Goal("graph output, peak memory, to tf.nn", _LAYERS, "output", _GRAPH, _STOCK_GRAPH, 1.0, "peak_mb", True),
        Goal("graph step, peak memory, to tf.nn", _LAYERS, "step", _GRAPH, _STOCK_GRAPH, 1.0, "peak_mb", True),
    ]
    return found


GOALS: tuple[Goal, ...] = (*_under_xla(), *_models(), *_outside_xla())


def verdict(goal: Goal, measurements: Sequence[Measurement]) -> Verdict:
    """The goal's ratio from what was measured, cases that were not left out."""
    figures: dict[tuple[str, str, str], float] = {}
    for m in measurements:
        figure = getattr(m, goal.metric)
        if m.onednn == goal.onednn and m.quantity == goal.quantity and figure is not None:
            figures[m.case, m.implementation, m.mode] = figure
    wanted = _rows(goal)
    ratios: list[tuple[float, int, str]] = []
    for row in wanted:
        case = row.case if isinstance(row, Row) else row
        top = figures.get((str(case), *goal.ours))
        bottom: float | None = 1.0
        if goal.against is not None:
            base = row.near if isinstance(row, Row) and goal.near else case
            bottom = figures.get((str(base), *goal.against))
            if bottom is not None and isinstance(base, Case) and isinstance(case, Case) and goal.near:
                bottom *= case.bytes_moved / base.bytes_moved
        if top is not None and bottom:
            ratios.append((top / bottom, row.layers if isinstance(row, Row) else 1, str(case)))
    if not ratios:
        return Verdict(None, 0, len(wanted), "", math.nan)
    worst = max(ratios)
    mean = math.exp(sum(n * math.log(max(r, 1e-9)) for r, n, _ in ratios) / sum(n for _, n, _ in ratios))
    return Verdict(worst[0] if goal.worst else mean, len(ratios), len(wanted), worst[2], worst[0])


def _rows(goal: Goal) -> list[Row | str]:
    rows: list[Row | str] = []
    for name in goal.suites:
        if name in MODELS:
            rows.append(name)
            continue
        for row in suite(name, 8):
            if goal.kernels and row.case.kernel[0] not in goal.kernels:
                continue
            if goal.near and row.near is None:
                continue
            if not goal.only or (row.near is not None and _counts(row, goal.only)):
                rows.append(row)
    return rows


def _counts(row: Row, only: str) -> bool:
    """Whether a variation is of the kind: "NCHW", "unusual" (what stock kernels refuse or do badly) or "any"."""
    case = row.case
    nchw = case.data_format == "NCHW"
    strided_oddly = case.strides[0] != case.strides[1] or (case.strides != (1, 1) and case.dilations != (1, 1))
    return {"NCHW": nchw, "unusual": nchw or strided_oddly or case.dtype == "float64", "any": True}[only]
