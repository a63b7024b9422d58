"""The chooser: a table from conditions to lowerings, with the reason and the measurement behind each row.

A plan is made when the op is traced (or called eagerly), contraction by contraction: the first row whose condition
holds and whose lowering does not refuse. `explain` returns the lowering and the reason of these rows.

Cases are written as the benchmarks read them (benchmarks/case.py): 8x56x56x128 k3 s2 d2 m2 is a batch of 8 images of
56x56 with 128 channels under a 3x3 filter, with strides 2, dilations 2 and two outputs a channel. Where two figures
stand together, the first is `native`'s and the second `island`'s; pairs of them are of output, input gradient, filter
gradient, in this order, unless one of these is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import tensorflow as tf
from depthwise.ops.lowerings import BY_NAME
from depthwise.ops.lowerings.base import CONTRACTIONS, Contraction, Plan
from depthwise.ops.lowerings.native import as_output, is_padded_slowly
from depthwise.ops.lowerings.native.kernels import MOST_COLUMNS, onednn_computes
from depthwise.ops.mode import Mode
from depthwise.ops.spec import FLOATS, MOST_SPECS, ConvSpec, argument_error, shown


@dataclass(frozen=True)
class Row:
    """One row of the table: where `condition` holds, `lowering` is taken, for `reason`, as `evidence` shows."""

    lowering: str
    condition: Callable[[ConvSpec, Contraction, Mode], bool]
    reason: str
    evidence: str


MOST_STRIDED_FILTER_GRAD_TAPS = 9
"""With oneDNN and strides, where nothing is dilated and channels have one output each: most taps for which the kernel
computes a filter gradient of up to MOST_COLUMNS. Without strides, however many: 8x28x28x192 k31x3 takes 4.2 ms in it
and 7.2 in an island; of more columns k4, in two parts, 3.4 and 2.4, k1x5 1.7 and 1.3. With them 8x28x28x192 k7x3 s2
takes 2.4 and 1.1 ms, k7x3 s2 VALID 1.0 and 0.9."""
LEAST_FILTER_GRAD_CHANNELS = 6
"""The same, with strides or without: fewest channels for which an island computes a filter gradient. 8x112x112x4 k7
takes 1.8 ms in the kernel and 3.1 in an island, with 5 channels 2.5 and 4.0, with 6 2.6 and 1.5; 8x112x112x1 k5 0.6 and
0.8, 8x112x112x4 k7 s2 0.8 and 1.3."""
LEAST_TAPS, LEAST_FILTER_GRAD_TAPS, LEAST_STRIDED_FILTER_GRAD_TAPS = 3, 9, 16
"""Without oneDNN, where channels have one output each: fewest taps for which an island computes anything without
strides, the filter gradient, and that with strides. The output of 8x56x56x128 k2 takes 1.3 ms in the kernel and 1.4 in
an island, k3x1 1.3 and 0.7; its filter gradient 1.5 and 1.1, but k1x5 2.1 and 2.4, k3 s2 0.9 and 1.0."""
MOST_STRIDED_TAPS = 49
"""Without oneDNN, where channels have one output each: most taps for which an island computes the output of strides.
8x56x56x64 k7 s2 takes 1.3 ms in the kernel and 1.1 in an island, k9 s2 2.3 and 3.9."""
LEAST_REPEATED_FILTER_GRAD_TAPS = 25
"""Several outputs of a channel, without oneDNN: fewest taps for which an island computes the filter gradient, but for
SMALL_MULTIPLIER without strides, where the kernel is slow for 3x3 too: 8x28x28x192 k3 m2 takes 4.0 ms in it and 2.3 in
an island, k3 m4 (of 8x14x14x384) 3.0 and 3.2, 8x56x56x64 k3 s2 m2 1.7 and 2.1."""
MOST_NCHW_TAPS = 64
"""NCHW with oneDNN: most taps for which an island computes output or input gradient. 8x28x28x128 k13 NCHW takes 8.5 ms
in oneDNN's kernel and 11 in an island, 8x14x14x512 k27 NCHW 19 and 31."""
MOST_STRIDED_NCHW_TAPS = 9
"""The same with strides: 8x28x28x240 k5 s2 NCHW takes 1.8 and 2.7 ms, output, and 1.8 and 2.3, input gradient."""
MOST_DILATED_TAPS = 9
"""Dilated, with oneDNN, and padded beforehand: most taps for which an island computes output or input gradient. The
input gradient of 8x28x28x192 k7 d2 takes 4.4 ms in oneDNN's kernel and 5.4 in an island."""
LARGEST_MULTIPLIER = 4
"""NCHW, or oneDNN and several outputs of a channel: most of these for which an island computes anything. The output of
8x112x112x3 k3 s2 m8 takes 0.6 ms in oneDNN's kernel and 1.6 in an island."""
MOST_REPEATED_TAPS = 24
"""Several outputs of a channel, with oneDNN, without strides: most taps for which an island computes output or input
gradient. 8x28x28x192 k4 m2 takes 3.0 and 2.6 ms in oneDNN's kernel and an island, output, and 2.8 and 2.3, input
gradient, k5 m2 3.1 and 3.9, 3.1 and 3.9."""
MOST_STRIDED_REPEATED_TAPS = 49
"""The same with strides: 8x28x28x64 k7 s2 m2 takes 1.0 and 0.9 ms, 0.8 and 0.7, k9 s2 m4 1.9 and 2.6, 1.5 and 6.1. (But
outputs of fewer than LARGEST_MULTIPLIER take an island of any taps: 8x14x14x128 k13 s2 m2 7.3 and 2.3.)"""
MOST_REPEATED_NCHW_TAPS = 25
"""NCHW, with oneDNN, several outputs of a channel: most taps for which an island computes output or input gradient:
8x28x28x192 k5 m2 NCHW takes 3.3 and 2.5, 3.7 and 2.8, 8x14x14x384 k7 m2 NCHW 2.3 and 2.6, 2.6 and 2.5."""
SMALL_MULTIPLIER, MOST_REPEATED_FILTER_GRAD_TAPS = 2, 9
"""Several outputs of a channel, with oneDNN: an island computes the filter gradient where there are no more of them, or
no more taps, than this. 8x28x28x192 k7 m4 takes 17 ms in oneDNN's kernel and 28 in an island."""
MOST_TAPS_SUMMED_AT_ONCE = 9
"""Several outputs of a channel, without oneDNN: most taps for which an island computes input gradients of any size."""
MOST_REPEATED_ELEMENTS = {"output": 2**23, "input_grad": 2**22}
"""Several outputs of a channel, without oneDNN, NHWC: most elements of the output for which an island computes the
output, and the input gradient of more taps. What lies in memory beside it is then past 32 MiB, and given back to the
system after every call: 8x56x56x128 k3 m4 takes 30 ms in TensorFlow's kernel and 43 to 65 in an island, the input
gradient of 8x28x28x192 k5 m4 13 and 27. (With oneDNN, TensorFlow keeps memory: 10 and 11.)"""
ISLAND_PRODUCTS, ISLAND_PRODUCTS_WITHOUT_ONEDNN = 2**22, 2**20
"""Fewest products whose sum is worth the time that an island takes to compile, up to a second. Without oneDNN, steps of
1x28x28x192 k3 take 0.44 ms in the kernels and 0.37 in islands, of 1x59x59x144 k5 s2 VALID 1.5 and 0.5; but of
1x14x14x384 k3, with fewer, 0.31 and 0.31."""


def _island_may_pay(spec: ConvSpec, mode: Mode) -> bool:
    """Whether this is a plain graph, on a machine without a GPU (with one: not measured), and sizes are known, and
    large enough that a compilation is soon earned back."""
    if mode != "graph" or spec.may_be_empty or tf.config.list_physical_devices("GPU"):
        return False
    least = ISLAND_PRODUCTS if onednn_computes(spec) else ISLAND_PRODUCTS_WITHOUT_ONEDNN
    return _elements(spec) * spec.taps >= least


def _elements(spec: ConvSpec) -> int:
    """Elements of an output of known shape."""
    return prod(spec.output_shape)  # type: ignore[arg-type]


def _multiplier(spec: ConvSpec) -> int:
    """Outputs of each input channel; 1 while unknown."""
    return int(spec.multiplier or 1)


def _island_in_nchw(spec: ConvSpec, contraction: Contraction, mode: Mode) -> bool:
    if spec.data_format != "NCHW" or not _island_may_pay(spec, mode) or _multiplier(spec) > LARGEST_MULTIPLIER:
        return False
    if contraction == "filter_grad" or not onednn_computes(spec):
        return True
    if spec.is_strided:
        return spec.taps <= MOST_STRIDED_NCHW_TAPS
    return spec.taps <= (MOST_NCHW_TAPS if _multiplier(spec) == 1 else MOST_REPEATED_NCHW_TAPS)


def _island_with_multiplier(spec: ConvSpec, contraction: Contraction, mode: Mode) -> bool:
    if not 1 < _multiplier(spec) <= LARGEST_MULTIPLIER or not _island_may_pay(spec, mode) or not onednn_computes(spec):
        return False
    if contraction == "filter_grad":
        return _multiplier(spec) <= SMALL_MULTIPLIER or spec.taps <= MOST_REPEATED_FILTER_GRAD_TAPS
    if not spec.is_strided:
        return spec.taps <= MOST_REPEATED_TAPS
    is_output_of_few = contraction == "output" and _multiplier(spec) < LARGEST_MULTIPLIER
    return is_output_of_few or spec.taps <= MOST_STRIDED_REPEATED_TAPS


def _island_with_onednn(spec: ConvSpec, contraction: Contraction, mode: Mode) -> bool:
    if not _island_may_pay(spec, mode) or not onednn_computes(spec):
        return False
    if contraction == "filter_grad":
        is_slow = spec.cols.taps > MOST_COLUMNS or (spec.is_strided and spec.taps > MOST_STRIDED_FILTER_GRAD_TAPS)
        has_few = (spec.channels or 0) < LEAST_FILTER_GRAD_CHANNELS
        return spec.is_dilated or (is_slow and not has_few and _multiplier(spec) == 1)
    if not spec.is_dilated or spec.taps > MOST_DILATED_TAPS:
        return False
    by_kernel = spec if contraction == "output" else as_output(spec)
    return by_kernel is None or is_padded_slowly(by_kernel)


def _island_without_onednn(spec: ConvSpec, contraction: Contraction, mode: Mode) -> bool:
    if not _island_may_pay(spec, mode) or onednn_computes(spec):
        return False
    if spec.is_dilated or spec.rows.stride != spec.cols.stride:
        return True
    if _multiplier(spec) > 1:
        return _island_with_multiplier_without_onednn(spec, contraction)
    if not spec.is_strided:
        return spec.taps >= (LEAST_FILTER_GRAD_TAPS if contraction == "filter_grad" else LEAST_TAPS)
    if contraction == "filter_grad":
        return spec.taps >= LEAST_STRIDED_FILTER_GRAD_TAPS
    return contraction == "input_grad" or spec.taps <= MOST_STRIDED_TAPS


def _island_with_multiplier_without_onednn(spec: ConvSpec, contraction: Contraction) -> bool:
    if contraction == "filter_grad":
        is_slow_for_few_taps = _multiplier(spec) == SMALL_MULTIPLIER and not spec.is_strided
        return is_slow_for_few_taps or spec.taps >= LEAST_REPEATED_FILTER_GRAD_TAPS
    if contraction == "output" and spec.is_strided:
        return False
    needs_no_memory = contraction == "input_grad" and spec.taps <= MOST_TAPS_SUMMED_AT_ONCE
    return needs_no_memory or _elements(spec) <= MOST_REPEATED_ELEMENTS[contraction]


TABLE: tuple[Row, ...] = (
    Row(
        "taps",
        lambda spec, contraction, mode: spec.dtype not in FLOATS,
        "TensorFlow has no depthwise kernel for integer and complex dtypes",
        "the kernels' registered dtypes",
    ),
    Row(
        "taps",
        lambda spec, contraction, mode: mode == "xla",
        "traced for XLA, which emits TensorFlow's convolution as a naive loop and fuses taps into a few passes",
        "stock 147 ms, taps 1.0 ms: 8x112x112x32 k3, float32, 2 CPU cores",
    ),
    Row(
        "island",
        _island_in_nchw,
        "TensorFlow's CPU kernels compute in NHWC, and transposing around them takes longer than XLA takes altogether; "
        "sizes are known and large, so that compiling it once pays",
        "native and island: 4.2 and 2.1, 4.6 and 2.0, 6.9 and 4.8 ms, output, input and filter gradient of 8x56x56x128 "
        "k3 NCHW; without oneDNN 21 and 1.6, 18 and 1.6, 11 and 5.5; the same of 8x28x28x192 k5 m2 NCHW 3.3 and 2.5, "
        "3.7 and 2.8, 6.7 and 2.9; without oneDNN of k7 m2 NCHW 38 and 6.6, 28 and 11, 39 and 22; float32, 2 CPU cores "
        "(python -m benchmarks --case, --mode graph, --implementation depthwise:native and depthwise:island)",
    ),
    Row(
        "island",
        _island_with_multiplier,
        "oneDNN's kernels are slow where channels have two to four outputs each, even if they are repeated for it; "
        "sizes are known and large, so that compiling it once pays",
        "native and island: output, input and filter gradient of 8x56x56x128 k3 m2 4.4 and 2.9, 5.1 and 1.9, 6.3 and "
        "4.5; of 8x28x28x128 k3 m4 1.7 and 1.7, 2.1 and 1.3, 3.2 and 2.4; of 8x56x56x64 k3 s2 m2 1.1 and 0.9, 1.9 and "
        "0.8, 1.6 and 1.5; filter gradients of 8x28x28x192 k5 m2 4.0 and 3.1, of 8x14x14x384 k7 m2 4.8 and 3.0, of "
        "8x28x28x64 k9 m2 4.1 and 2.5, of 8x14x14x128 k27 m2 43 and 4.7; float32, 2 CPU cores (the same command)",
    ),
    Row(
        "island",
        _island_with_onednn,
        "oneDNN's kernels are slow at it; sizes are known and large, so that compiling it once pays",
        "native and island: 4.5 and 3.1 ms, filter gradient of 8x28x28x240 k5, 3.7 and 2.1 of 8x28x28x192 k4, 5.8 and "
        "3.9 of 8x56x56x128 k3 d2, 12 and 4.5 of 8x28x28x192 k7 d2; 3.7 and 1.8, 3.2 and 2.1, 4.3 and 2.7, all three "
        "of 8x33x33x256 k3 d6, but output and input gradient of 8x28x28x256 k3 d2, which oneDNN pads itself, 1.6 and "
        "1.5, 1.8 and 1.8; float32, 2 CPU cores (the same command)",
    ),
    Row(
        "island",
        _island_without_onednn,
        "TensorFlow's kernels without oneDNN are slower at it than XLA; sizes are known and large, so that compiling "
        "it once pays",
        "native and island: 2.5 and 1.0, 2.5 and 1.2, 2.7 and 1.7 ms, output, input and filter gradient of "
        "8x112x112x32 k3; 1.8 and 0.9, 4.9 and 1.3, 2.0 and 1.5 of 8x59x59x144 k5 s2 VALID; 3.5 and 2.1, 4.1 and 2.2, "
        "3.7 and 1.9 of 8x28x28x192 k7; output and input gradient of 8x57x57x144 k3 s2 VALID 0.9 and 0.6, 2.1 and 0.9; "
        "all three of 8x56x56x128 k3 s2x1 5.6 and 0.6, 6.7 and 1.3, 5.0 and 1.4; float32, 2 CPU cores (with --onednn "
        "off)",
    ),
    Row(
        "native",
        lambda spec, contraction, mode: True,
        "outside XLA, where TensorFlow's own kernels make one pass and taps would make one pass per tap",
        "native 1.2 ms, taps 30 times that: 8x112x112x32 k3, float32, 2 CPU cores",
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


_NAMES = ("auto", *BY_NAME)


def check_lowering(lowering: object, whose: str = "depthwise_conv2d") -> None:
    """Refuses what is not the name of a lowering.

    Args:
      lowering: what was given for an argument `lowering`.
      whose: the name of what has the argument, for the message.

    Raises:
      TypeError, ValueError: not a string, or not one of the names.
    """
    if not isinstance(lowering, str) or lowering not in _NAMES:
        kind = ValueError if isinstance(lowering, str) else TypeError
        names = ", ".join(repr(name) for name in _NAMES)
        raise argument_error("lowering", f"be one of {names}", shown(lowering), "'auto' takes every case.", kind, whose)


@lru_cache(maxsize=MOST_SPECS)
def explanation(spec: ConvSpec, lowering: str, mode: Mode) -> Explanation:
    """The choice for each contraction.

    Raises:
      NotImplementedError: the lowering was asked for by name, and cannot do the case.
    """
    return Explanation(*(_choice(spec, lowering, mode, contraction) for contraction in CONTRACTIONS))


def plan(spec: ConvSpec, lowering: str, mode: Mode) -> Plan:
    """The lowering for each contraction, as `explanation` says."""
    chosen = explanation(spec, lowering, mode)
    return Plan(*(BY_NAME[c.lowering] for c in (chosen.output, chosen.input_grad, chosen.filter_grad)))


def _choice(spec: ConvSpec, lowering: str, mode: Mode, contraction: Contraction) -> Choice:
    if lowering != "auto":
        refusal = BY_NAME[lowering].refuses(spec, contraction, mode)
        if refusal:
            rule = f"name a lowering that can compute {contraction} here"
            received = f"{lowering!r}, which cannot: {refusal}"
            raise argument_error("lowering", rule, received, "'auto' takes every case.", NotImplementedError)
        return Choice(contraction, lowering, "asked for by name")
    refusals: list[str] = []
    for row in TABLE:
        if row.condition(spec, contraction, mode):
            refusal = BY_NAME[row.lowering].refuses(spec, contraction, mode)
            if refusal is None:
                return Choice(contraction, row.lowering, "; ".join([row.reason, *refusals]))
            refusals.append(f"{row.lowering} refused: {refusal}")
    raise AssertionError(f"no row of the table takes {spec}")
