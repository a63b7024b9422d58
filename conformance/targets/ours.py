"""This package's op, each of its lowerings, and its layer."""

from __future__ import annotations

import functools
from typing import Any

from depthwise.conformance.targets.tensorflow import TensorFlowTarget
from depthwise.ops import LOWERINGS, depthwise_conv2d


def auto() -> TensorFlowTarget:
    """`depthwise_conv2d` as it chooses by itself."""
    return TensorFlowTarget(depthwise_conv2d)


def lowering(name: str) -> TensorFlowTarget:
    """`depthwise_conv2d` with one lowering forced.

    Raises:
      ValueError: there is no such lowering.
    """
    if name not in LOWERINGS:
        raise ValueError(f"target: lowering must be one of {', '.join(LOWERINGS)}, got {name!r}")
    return TensorFlowTarget(functools.partial(depthwise_conv2d, lowering=name))


def layer() -> TensorFlowTarget:
    """`depthwise.layers.DepthwiseConv2D`, called with the filter in place of its weights."""
    from depthwise.conformance.targets.keras import call_layer
    from depthwise.layers import DepthwiseConv2D

    def op(input: Any, filter: Any, strides: Any, padding: Any, data_format: Any, dilations: Any) -> Any:
        return call_layer(DepthwiseConv2D, input, filter, strides, padding, data_format, dilations, explicit=True)

    return TensorFlowTarget(op)
