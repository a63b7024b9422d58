"""The op: depthwise_conv2d and explain."""

from depthwise.ops.depthwise import LOWERINGS, depthwise_conv2d, explain

__all__ = ["LOWERINGS", "depthwise_conv2d", "explain"]
