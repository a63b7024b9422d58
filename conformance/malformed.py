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


def _width_axis(arguments: Arguments) -> int:
    return _height_axis(arguments) + 1


def _with_channels(count: Callable[[int], int]) -> Callable[[Any], Any]:
    """A filter of so many input channels, given how many there should be."""
    return lambda w: np.resize(w, (*w.shape[:2], count(w.shape[2]), w.shape[3]))


def _other_float(w: Any) -> Any:
    return w.astype(np.float32 if w.dtype == np.float64 else np.float64)


def _at(axis: Callable[[Arguments], int], name: str, value: Any) -> Callable[[Arguments], Arguments]:
    return lambda arguments: {**arguments, name: _placed(axis(arguments), value)(arguments[name])}


def _explicit(axis: Callable[[Arguments], int], pads: Any) -> Callable[[Arguments], Arguments]:
    return lambda arguments: {**arguments, "padding": _placed(axis(arguments), pads)([[0, 0]] * 4)}


def _batch_axis(_: Arguments) -> int:
    return 0


# From a valid call's arguments (NumPy arrays, strides of four, padding, data_format, dilations of two) to a broken one.
MALFORMED: dict[str, Callable[[Arguments], Arguments]] = {
    "input-rank-0": _broken("input", lambda x: np.resize(x, ())),
    "input-rank-3": _broken("input", lambda x: np.resize(x, x.shape[1:])),
    "input-rank-5": _broken("input", lambda x: x[None]),
    "filter-rank-3": _broken("filter", lambda w: w[0]),
    "filter-rank-5": _broken("filter", lambda w: w[None]),
    "filter-no-taps": _broken("filter", lambda w: w[:0]),
    "channels-differ": _broken("filter", _with_channels(lambda count: 2 * count or 1)),
    "channels-fewer": _broken("filter", _with_channels(lambda count: count - 1 if count > 1 else count + 1)),
    "channels-one": _broken("filter", _with_channels(lambda count: 2 if count == 1 else 1)),  # NumPy broadcasts it
    "dtypes-differ": _broken("filter", _other_float),
    "input-bool": lambda arguments: {**arguments, **{k: arguments[k] > 0 for k in ("input", "filter")}},
    "strides-zero": _at(_height_axis, "strides", 0),
    "strides-zero-width": _at(_width_axis, "strides", 0),
    "strides-negative": _at(_height_axis, "strides", -1),
    "strides-batch": _at(_batch_axis, "strides", 2),
    "strides-channels": _at(_channel_axis, "strides", 2),
    "strides-fraction": _at(_width_axis, "strides", 1.5),
    "strides-three": _broken("strides", lambda s: s[1:]),
    "strides-five": _broken("strides", lambda s: [*s, 1]),
    "strides-huge": _at(_height_axis, "strides", 2**40),
    "strides-none": _broken("strides", lambda _: None),
    "dilations-zero": _broken("dilations", lambda _: [0, 1]),
    "dilations-negative": _broken("dilations", lambda _: [-1, 1]),
    "dilations-fraction": _broken("dilations", lambda _: [1, 1.5]),
    "dilations-three": _broken("dilations", lambda _: [1, 1, 1]),
    "dilations-five": _broken("dilations", lambda _: [1, 1, 1, 1, 1]),
    "padding-junk": _broken("padding", lambda _: "SOME"),
    "padding-none": _broken("padding", lambda _: None),
    "padding-negative": _explicit(_height_axis, [-1, 0]),
    "padding-negative-after": _explicit(_width_axis, [1, -1]),
    "padding-batch": _explicit(_batch_axis, [1, 0]),
    "padding-channels": _explicit(_channel_axis, [0, 1]),
    "padding-short": _broken("padding", lambda _: [[1, 1], [1, 1]]),
    "format-junk": _broken("data_format", lambda _: "NHCW"),
}
