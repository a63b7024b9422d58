"""How the taps of a filter walk over an image, along one axis."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from depthwise.ops.geometry import Axis


class Walk(NamedTuple):
    """Where the taps of an axis stand on an image: tap t meets the samples from origin + advance*t on, a step apart.

    From the first to the last of them there are `reach` samples.
    """

    origin: Any
    advance: int
    reach: Any
    step: int

    def at(self, tap: Any) -> Any:
        """The first sample that a tap meets; the tap may be a loop's counter, or an array of taps."""
        return self.origin + self.advance * tap

    def on_image(self, taps: int, size: int) -> np.ndarray:
        """Which samples lie on an image of this size: [taps, samples met by each]."""
        met: np.ndarray = self.at(np.arange(taps))[:, np.newaxis] + np.arange(0, self.reach, self.step)
        return (met >= 0) & (met < size)


def over_input(axis: Axis) -> Walk:
    """Over the input, to the outputs: output i is met by input stride*i + rate*t - before."""
    return Walk(-axis.pads[0], axis.rate, axis.reach, axis.stride)


def over_output_grad(axis: Axis) -> Walk:
    """Over the output gradient, spread out by the stride, to the input gradient: input p takes part in output i through
    tap t where stride*i = p + before - rate*t."""
    return Walk(axis.pads[0], -axis.rate, axis.size, 1)
