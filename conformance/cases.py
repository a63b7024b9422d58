"""The cases of a run: named rows for what is known to go wrong, and seeded generation for the rest."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from depthwise.conformance.case import DATA, DTYPES, FORMATS, MODES, UNKNOWN, UNKNOWN_IN, Case, Pads, parse
from depthwise.conformance.malformed import MALFORMED
from depthwise.conformance.rows import EMPTY, KNOWN_TROUBLE, LARGE, PARTLY_UNKNOWN, TENSORFLOW_AND_KERAS

LEVELS = ("quick", "standard", "full")
_DRAWS = {"quick": 1, "standard": 5, "full": 40}  # random cases per cell of the grid
_COSTLY = ("dynamic", "xla")
"""Modes in which a case takes many times longer than in others: half as many are drawn, and fewer of second order."""
_FLOATS = ("float32", "float32", "float32", "float64", "float16", "bfloat16")
_EXACT = tuple(name for name in DTYPES if "int" in name or "complex" in name)


def cases(level: str, devices: Iterable[str] = ("CPU",), seed: int = 0) -> list[Case]:
    """The cases of a level, on every device, in an order that mixes all kinds.

    Args:
      level: "quick" (hundreds of cases), "standard" (2,500) or "full" (eight thousand).
      devices: device types, each of which gets every case.
      seed: of the generated cases, of all data, and of the order.

    Returns:
      Distinct cases. Equal arguments give equal lists.

    Raises:
      ValueError: there is no such level.

    Example:
      >>> cases("quick") == cases("quick")
      True
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    draw = random.Random(f"{level} {seed}")
    kinds = (_named, _dtypes, _empty, _partly_unknown, _second_order, _refusals)
    found = list(dict.fromkeys(itertools.chain(_grid(level, draw), *(kind(level) for kind in kinds))))
    draw.shuffle(found)
    return [replace(case, device=device, seed=case.seed + seed) for device in devices for case in found]


def selection(notations: Sequence[str] | None, level: str, devices: Sequence[str] | None, seed: int) -> list[Case]:
    """The cases that a run's options ask for: those that notations stand for, or else those of a level.

    Args:
      notations: see `case.parse`; None or none for the level's.
      level: as for `cases`.
      devices: device types to run each case on; None is the one that a notation names, and for a level CPU and GPU.
      seed: as for `cases`; added to that of a notation's data.

    Raises:
      ValueError: a notation can't be read, or there is no such level.

    Example:
      >>> [str(case) for case in selection(["in=1x5x5x2 filter=3x3x1"], "quick", ["GPU"], 0)]
      ['in=1x5x5x2 filter=3x3x1 device=GPU']
    """
    if not notations:
        return cases(level, devices or ("CPU", "GPU"), seed)
    found = [parse(text) for text in notations]
    return [
        replace(case, device=device, seed=case.seed + seed) for case in found for device in devices or (case.device,)
    ]


def _named(level: str) -> Iterator[Case]:
    """Every row in some mode and format at quick, in all of them above."""
    for index, row in enumerate((*TENSORFLOW_AND_KERAS, *KNOWN_TROUBLE, *LARGE)):
        if level == "quick":
            integer = index % 8 > 5 and row.data == "normal"
            yield replace(row, mode=MODES[index % 4], data="integer" if integer else row.data)
            continue
        formats = FORMATS if row.format == "NHWC" else (row.format,)
        for mode, data_format in itertools.product(MODES, formats):
            yield replace(row, mode=mode, format=data_format)
        yield replace(row, data="integer")
        yield replace(row, dtype="float64")


def _empty(level: str) -> Iterator[Case]:
    for (index, row), (at, mode) in itertools.product(enumerate(EMPTY), enumerate(MODES)):
        if level == "quick":
            yield replace(row, mode=mode, format=FORMATS[index % 2], dtype=_FLOATS[(index + at) % len(_FLOATS)])
        else:
            for data_format in FORMATS:
                yield replace(row, mode=mode, format=data_format)
            yield replace(row, mode=mode, dtype="bfloat16" if index % 2 else "float64")


def _dtypes(level: str) -> Iterator[Case]:
    """Integers and complex numbers, for which every implementation has code of its own, if any."""
    plain = Case((2, 6, 5, 3), (3, 2, 2))
    shapes = (
        replace(plain, order=2),
        replace(plain, strides=(2, 2), padding="VALID"),
        replace(plain, dilations=(1, 2), format="NCHW"),
        Case((1, 7, 6, 2), (2, 3, 1), strides=(2, 1), padding=((1, 0), (0, 2))),
        replace(plain, input=(0, 6, 5, 3)),
    )
    for (at, dtype), (index, case) in itertools.product(enumerate(_EXACT), enumerate(shapes)):
        for mode in MODES if level != "quick" else (MODES[(at + index) % 4],):
            yield replace(case, dtype=dtype, mode=mode)


def _partly_unknown(level: str) -> Iterator[Case]:
    some = ("H", "W") if level == "quick" else UNKNOWN[1:]
    for case, mode, unknown in itertools.product(PARTLY_UNKNOWN, UNKNOWN_IN, some):
        yield replace(case, mode=mode, unknown=unknown)


def _second_order(level: str) -> Iterator[Case]:
    """Gradients of gradients: for some rows at quick, since each compiles five functions in one."""
    some = [
        Case((2, 5, 6, 2), (3, 3, 2)),
        Case((2, 5, 6, 2), (3, 2, 1), strides=(2, 2), padding="VALID"),
        Case((1, 6, 5, 2), (2, 3, 2), dilations=(2, 2)),
        Case((1, 4, 6, 3), (3, 3, 1), padding=((2, 1), (0, 1)), format="NCHW"),
    ]
    for case, mode in itertools.product(some, MODES if level != "quick" else ("eager", "xla")):
        yield replace(case, mode=mode, order=2)


def _refusals(level: str) -> Iterator[Case]:
    valid = Case((2, 6, 5, 3), (3, 2, 2))
    modes = ("eager", "graph") if level == "quick" else MODES
    for name, (index, mode) in itertools.product(MALFORMED, enumerate(modes)):
        if level == "quick":  # each in both formats: a junk format read as NHWC is refused in NCHW for its channels
            yield replace(valid, bad=name, mode=mode, format=FORMATS[index], padding=("SAME", "VALID")[index])
        else:
            for data_format, padding in itertools.product(FORMATS, ("SAME", "VALID")):
                yield replace(valid, bad=name, mode=mode, format=data_format, padding=padding)


def _grid(level: str, draw: random.Random) -> Iterator[Case]:
    """Random cases in every cell of format x padding x kind of strides x kind of dilations x mode."""
    kinds = ("one", "equal", "unequal")
    paddings = ("SAME", "VALID", "EXPLICIT")
    axes = (enumerate(FORMATS), enumerate(paddings), enumerate(kinds), enumerate(kinds), enumerate(MODES))
    for (f, data_format), (p, padding), (s, stride), (d, dilation), (_, mode) in itertools.product(*axes):
        # Equal and unequal strides (and dilations) take turns in the costly modes, so that none is left out.
        if mode in _COSTLY and (s not in (0, 1 + (f + p) % 2) or d not in (0, 1 + (p + s) % 2)):
            continue
        for _ in range(_DRAWS[level]):
            yield _drawn(draw, data_format, padding, stride, dilation, mode)


def _drawn(draw: random.Random, data_format: str, padding: str, stride: str, dilation: str, mode: str) -> Case:
    taps = (draw.randint(1, 5), draw.randint(1, 5))
    strides, dilations = _pair(draw, stride), _pair(draw, dilation)
    span = [(k - 1) * r + 1 for k, r in zip(taps, dilations, strict=True)]
    # Most images are larger than the filter, so that most outputs aren't empty; the rest is any size from 1 on.
    sizes = [draw.randint(r, r + 7) if draw.random() < 0.85 else draw.randint(1, 4) for r in span]
    pads: str | Pads = padding
    if padding == "EXPLICIT":
        pads = ((draw.randint(0, 3), draw.randint(0, 3)), (draw.randint(0, 3), draw.randint(0, 3)))
    return Case(
        input=(draw.randint(1, 3), sizes[0], sizes[1], draw.randint(1, 4)),
        filter=(*taps, draw.choice((1, 1, 2, 3))),
        strides=strides,
        dilations=dilations,
        padding=pads,
        format=data_format,
        dtype=draw.choice(_FLOATS),
        mode=mode,
        unknown=draw.choice(UNKNOWN) if mode in UNKNOWN_IN and draw.random() < 0.5 else "",
        data=draw.choices(DATA, (12, 6, 4, 1))[0],
        order=2 if draw.random() < (0.05 if mode in _COSTLY else 0.2) else 1,
        seed=draw.randrange(1000),
    )


def _pair(draw: random.Random, kind: str) -> tuple[int, int]:
    if kind == "one":
        return (1, 1)
    first = draw.randint(2, 3)
    if kind == "equal":
        return (first, first)
    return draw.choice(((1, first), (first, 1), (2, 3), (3, 2)))
