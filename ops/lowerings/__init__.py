"""Ways to compute the op, by name."""

from depthwise.ops.lowerings.base import Lowering
from depthwise.ops.lowerings.native import Native
from depthwise.ops.lowerings.taps import Taps

LOWERINGS: dict[str, Lowering] = {lowering.name: lowering for lowering in (Native(), Taps())}
