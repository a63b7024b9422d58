"""Malformed calls: one argument of a valid call broken, each of which every implementation must refuse.

Refusing is raising an error in Python before anything is computed. A process that aborts, a result of any shape, or
uninitialised memory is a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Arguments = dict[str, Any]


def _broken(name: str, change: Callable[[Any], Any]) -> Callable[[Arguments], Arguments]:
    return lambda arguments: {**arguments, name: change(arguments[name])}


def _placed(index: int, value: Any) -> Callable[[Any], Any]:
    return lambda old: [*old[:index], value, *old[index + 1 :]]


def _channel_axis(arguments: Arguments) -> int:
    return 1 if arguments["data_format"] == "NCHW" else 3


def _height_axis(arguments: Arguments) -> int:
    return 2 if arguments["data_format"] == "NCHW" else 1


def _at(axis: Callable[[Arguments], int], name: str, value: Any) -> Callable[[Arguments], Arguments]:
    return lambda arguments: {**arguments, name: _placed(axis(arguments), value)(arguments[name])}


def _explicit(axis: Callable[[Arguments], int], pads: Any) -> Callable[[Arguments], Arguments]:
    return lambda arguments: {**arguments, "padding": _placed(axis(arguments), pads)([[0, 0]] * 4)}


def _batch_axis(_: Arguments) -> int:
    return 0


# From a valid call's arguments (NumPy arrays, strides of four, padding, data_format, dilations of two) to a broken one.
MALFORMED: dict[str, Callable[[Arguments], Arguments]] = {
    "input-rank-0": _broken("input", lambda x: x.reshape(-1)[0]),
    "input-rank-3": _broken("input", lambda x: x[0]),
    "input-rank-5": _broken("input", lambda x: x[None]),
    "filter-rank-3": _broken("filter", lambda w: w[0]),
    "filter-rank-5": _broken("filter", lambda w: w[None]),
    "filter-no-taps": _broken("filter", lambda w: w[:0]),
    "channels-differ": _broken("filter", lambda w: np.concatenate([w, w], axis=2)),
    "dtypes-differ": _broken("filter", lambda w: w.astype(np.float64)),
    "input-bool": lambda arguments: {**arguments, **{k: arguments[k] > 0 for k in ("input", "filter")}},
    "strides-zero": _at(_height_axis, "strides", 0),
    "strides-negative": _at(_height_axis, "strides", -1),
    "strides-batch": _at(_batch_axis, "strides", 2),
    "strides-channels": _at(_channel_axis, "strides", 2),
    "strides-five": _broken("strides", lambda s: [*s, 1]),
    "strides-huge": _at(_height_axis, "strides", 2**40),
    "strides-none": _broken("strides", lambda _: None),
    "dilations-zero": _broken("dilations", lambda _: [0, 1]),
    "dilations-negative": _broken("dilations", lambda _: [-1, 1]),
    "dilations-five": _broken("dilations", lambda _: [1, 1, 1, 1, 1]),
    "padding-junk": _broken("padding", lambda _: "SOME"),
    "padding-none": _broken("padding", lambda _: None),
    "padding-negative": _explicit(_height_axis, [-1, 0]),
    "padding-batch": _explicit(_batch_axis, [1, 0]),
    "padding-channels": _explicit(_channel_axis, [0, 1]),
    "padding-short": _broken("padding", lambda _: [[1, 1], [1, 1]]),
    "format-junk": _broken("data_format", lambda _: "NHCW"),
}
