"""What a target is: something that computes a case's results, or says that it doesn't support it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from depthwise.conformance.data import Problem

Array = npt.NDArray[Any]


@dataclass
class Outputs:
    """What one run of a target returned.

    Attributes:
      arrays: results by name (`data.FIRST_ORDER` and `data.SECOND_ORDER`); a gradient that came back as None is absent.
      static_shape: the output's shape as known before running, with None for unknown sizes; None if there is no such.
      inputs_after: the input and the filter, read again after the run.
    """

    arrays: dict[str, Array]
    static_shape: tuple[int | None, ...] | None = None
    inputs_after: list[Array] = field(default_factory=list)


class Target(Protocol):
    """An implementation under test, in the process that imports it."""

    def devices(self) -> list[str]:
        """The device types on which it can run here, such as ["CPU", "GPU"]."""

    def versions(self) -> dict[str, str]:
        """Names and versions of what it runs on."""

    def prepare(self, problem: Problem, wanted: Collection[str]) -> Callable[[], Outputs]:
        """Everything up to running: returns what runs the case once, as often as it is called.

        Raises:
          NotImplementedError: the target doesn't support the case.
        """

    def call_malformed(self, problem: Problem) -> Any:
        """Makes the case's malformed call (`malformed.MALFORMED`); returns what it returns, if it does.

        Raises:
          NotImplementedError: the target can't be called with the arguments of `tf.nn.depthwise_conv2d`.
        """


def as_array(tensor: Any) -> Array:
    """A tensor as a NumPy array of its own, so that later runs can't change it."""
    return np.array(tensor.numpy() if hasattr(tensor, "numpy") else tensor)
