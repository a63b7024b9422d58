"""The op: depthwise_conv2d and explain; and what layers around it need to know."""

from depthwise.ops.choose import Choice, Explanation, check_lowering
from depthwise.ops.depthwise import LOWERINGS, depthwise_conv2d, explain
from depthwise.ops.differentiable import may_be_differentiated
from depthwise.ops.mode import without_islands

__all__ = [
    "LOWERINGS",
    "Choice",
    "Explanation",
    "check_lowering",
    "depthwise_conv2d",
    "explain",
    "may_be_differentiated",
    "without_islands",
]
