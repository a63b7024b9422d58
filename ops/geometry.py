"""The integer arithmetic of a convolution: output sizes, pads, and which taps meet which samples.

One spatial axis of the convolution is

    output[i] = sum over t in [0, taps) of filter[t] * input[stride*i + rate*t - before]

where `before` samples of padding stand ahead of the input. All that a lowering needs to know about an axis follows
from this line. Sizes may be Python integers or integer scalar tensors (when a dimension is unknown until run time):
the formulas are the same, so they are written once, with operators that both understand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import gcd
from typing import Any, Literal, NamedTuple, TypeAlias

import tensorflow as tf

Padding: TypeAlias = "Literal['SAME', 'VALID'] | tuple[int, int]"
Size: TypeAlias = Any
"""An int, an integer scalar tensor, or None where the dimension is unknown."""


def at_least_zero(n: Size) -> Size:
    """max(n, 0), for integers and integer tensors alike (`max` would ask a symbolic tensor for its truth value)."""
    return tf.maximum(n, 0) if isinstance(n, tf.Tensor) else max(n, 0)


def ceil_div(n: Size, divisor: Size) -> Size:
    """The quotient rounded up, for integers and for integer tensors that are not negative.

    Tensors are divided where neither operand is negative, here and below: what a graph is converted to may round
    towards zero (ONNX). Nor is anything added to them, which 32 bits might not hold.
    """
    return n // divisor + tf.minimum(n % divisor, 1) if isinstance(n, tf.Tensor) else -(-n // divisor)


def at_most(n: Size, limit: Size) -> Size:
    """min(n, limit), for integers and integer tensors alike."""
    if isinstance(limit, tf.Tensor):
        n, limit = limit, n  # of a tensor and an integer, the first decides the dtype of both
    return tf.minimum(n, limit) if isinstance(n, tf.Tensor) else min(n, limit)


class Run(NamedTuple):
    """Neighbouring results that are formed alike: sums of the same taps times shifted samples of a source.

    Results `start` to `stop` (exclusive) are the sums, over the pairs (tap, begin) of `terms`, of the tap times the
    samples begin, begin + step, begin + 2*step, ... of the source; or, where `piece` is a range of the source rather
    than None, of that piece with `pads` zeros before and after it. Every sample named exists.
    """

    start: int
    stop: int
    step: int
    terms: tuple[tuple[int, int], ...]
    piece: tuple[int, int] | None = None
    pads: tuple[int, int] = (0, 0)


NEAR = 64
"""Taps or windows no further apart than this are never `far_apart`, however small the image."""
FAR = 256
"""Taps or windows further apart than this are `far_apart` where the image may be of any size."""
MOST_AXES = 4096
"""Axes whose runs are kept: they are asked for again whenever a call is traced."""


@dataclass(frozen=True)
class Axis:
    """One spatial axis: its input size, its filter size, and how the filter walks over it.

    Attributes:
      size: input size, None while unknown.
      taps: filter size, None while unknown.
      stride: distance between the windows of neighbouring outputs, in input samples.
      rate: distance between neighbouring taps, in input samples (1 is an undilated filter).
      padding: "SAME", "VALID", or the pair (before, after).
    """

    size: Size
    taps: Size
    stride: int
    rate: int
    padding: Padding

    @property
    def known(self) -> bool:
        """Whether both sizes are Python integers."""
        return isinstance(self.size, int) and isinstance(self.taps, int)

    @property
    def far_apart(self) -> bool:
        """Whether windows, or taps, stand further apart than the input is large, or is likely to be.

        To lay out what lies in between is then a waste, and may be more than there is memory.
        """
        near = max(self.size, NEAR) if isinstance(self.size, int) else FAR
        return max(self.stride, self.rate) > near

    @property
    def span(self) -> Size:
        """Input samples that one dilated window covers."""
        return self.rate * (self.taps - 1) + 1

    @property
    def pads(self) -> tuple[Size, Size]:
        """(before, after): samples of padding. SAME puts the odd one after, as TensorFlow does."""
        if self.padding == "VALID":
            return 0, 0
        if self.padding == "SAME":
            total = at_least_zero((ceil_div(self.size, self.stride) - 1) * self.stride + self.span - self.size)
            # (An empty input gets padding by this formula too; its output is empty, so nothing depends on it.)
            return total // 2, total - total // 2
        return self.padding

    @property
    def pads_for_a_window(self) -> tuple[Size, Size]:
        """`pads`, and after the input what one window needs besides, where they leave no output."""
        before, after = self.pads
        return before, after + at_least_zero(self.span - (before + self.size + after))

    @property
    def output(self) -> Size:
        """Output size: ceil(size / stride) for SAME, else the number of windows that fit into the padded input."""
        if self.padding == "SAME":
            return ceil_div(self.size, self.stride)
        before, after = self.pads
        return ceil_div(at_least_zero(self.size + before + after - self.span + 1), self.stride)

    @property
    def reach(self) -> Size:
        """Input samples from the first window's first tap to the last window's first tap; 0 without any window."""
        return at_least_zero(self.stride * (self.output - 1) + 1)

    def outputs_of_tap(self, tap: int) -> tuple[Size, Size]:
        """The half-open range of outputs in whose windows this tap lies on the input, not on padding."""
        offset = self.pads[0] - self.rate * tap
        first, stop = (ceil_div(at_least_zero(n), self.stride) for n in (offset, self.size + offset))
        return at_most(first, self.output), at_most(stop, self.output)

    def input_of_tap(self, tap: int, output: Size) -> Size:
        """The input sample under this tap in the window of this output."""
        return self.stride * output + self.rate * tap - self.pads[0]


@lru_cache(maxsize=MOST_AXES)
def output_runs(axis: Axis) -> tuple[Run, ...]:
    """The outputs of an axis, as runs whose source is the input."""
    cuts = {0, axis.output}
    for tap in range(axis.taps):
        cuts.update(axis.outputs_of_tap(tap))
    bounds = sorted(cuts)
    runs = []
    for start, stop in pairwise(bounds):
        covering = [t for t in range(axis.taps) if axis.outputs_of_tap(t)[0] <= start < axis.outputs_of_tap(t)[1]]
        terms = tuple((t, axis.input_of_tap(t, start)) for t in covering)
        runs.append(Run(start, stop, axis.stride, terms))
    return tuple(runs)


@lru_cache(maxsize=MOST_AXES)
def input_runs(axis: Axis) -> tuple[Run, ...]:
    """The inputs of an axis without a stride, as runs whose source is the output.

    This is the axis read backwards, for the input gradient: input p takes part in output i through tap t where
    i + rate*t - before = p.
    """
    shifts = {tap: axis.pads[0] - axis.rate * tap for tap in range(axis.taps)}
    cuts = {0, axis.size}
    for shift in shifts.values():
        cuts.update(min(max(cut, 0), axis.size) for cut in (-shift, axis.output - shift))
    bounds = sorted(cuts)
    runs = []
    for start, stop in pairwise(bounds):
        terms = tuple((t, start + shift) for t, shift in shifts.items() if 0 <= start + shift < axis.output)
        runs.append(Run(start, stop, 1, terms))
    return tuple(runs)


def merged(runs: tuple[Run, ...], source: int) -> Run:
    """The same results as a single run with all taps, on the source (of this size) padded as far as they reach."""
    start, stop, step = runs[0].start, runs[-1].stop, runs[0].step
    # A tap that misses the source in the first run stands where the others say: positions advance by `step`.
    begins = {tap: begin - step * (run.start - start) for run in runs for tap, begin in run.terms}
    if not begins:
        return Run(start, stop, step, ())
    first, last = min(begins.values()), max(begins.values()) + step * (stop - start - 1) + 1
    piece = max(first, 0), min(last, source)
    pads = piece[0] - first, last - piece[1]
    return Run(start, stop, step, tuple((tap, begin - first) for tap, begin in sorted(begins.items())), piece, pads)


@dataclass(frozen=True)
class Phases:
    """How an axis splits into interleaved convolutions without dilation and with a given stride.

    Output phase r consists of the outputs i = r, r + count, r + 2*count, ...; it reads the input samples
    stride*r + rate*u - before, u = 0, 1, 2, ..., and on those it is a convolution of stride `stride_within` and
    rate 1: with i = r + count*m the formula reads stride*i + rate*t = stride*r + rate*(stride_within*m + t),
    provided that stride * count = rate * stride_within.

    `padding` is "VALID" where those samples are read from the padded input, and "SAME" where they may be read from the
    input itself, each phase of it then being padded like that.
    """

    count: int
    stride_within: int
    padding: Padding


def common_phases(rows: Axis, cols: Axis) -> tuple[Phases, Phases]:
    """The fewest phases per axis that leave both axes undilated and with one common stride.

    An axis alone needs rate/g phases of stride stride/g, g = gcd(stride, rate), or any multiple of both; the common
    stride is the least common multiple of the two. So an unequal stride or a dilation, or both together, costs a
    rearrangement of the input and never a multiplication that is thrown away.
    """
    strides = [axis.stride // gcd(axis.stride, axis.rate) for axis in (rows, cols)]
    common = strides[0] * strides[1] // gcd(*strides)
    padding: Padding = "SAME" if _is_same_in_phases(rows) and _is_same_in_phases(cols) else "VALID"
    row_phases, col_phases = (
        Phases(axis.rate // gcd(axis.stride, axis.rate) * (common // stride), common, padding)
        for axis, stride in zip((rows, cols), strides, strict=True)
    )
    return row_phases, col_phases


def _is_same_in_phases(axis: Axis) -> bool:
    """Whether SAME padding of an axis is SAME padding of each of its phases.

    Without a stride it is rate * (taps - 1) samples, half of them before: of every phase (taps - 1) / 2, if that is
    whole.
    """
    if axis.padding != "SAME" or axis.stride != 1:
        return False
    return axis.rate == 1 or (isinstance(axis.taps, int) and axis.taps % 2 == 1)
