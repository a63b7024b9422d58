"""Ways to compute the op, by name."""

from functools import partial

from depthwise.ops.lowerings.base import Lowering
from depthwise.ops.lowerings.in_function import InFunction
from depthwise.ops.lowerings.native import Native
from depthwise.ops.lowerings.portable import Portable
from depthwise.ops.lowerings.taps import Taps

# `taps` is a function, so that layers of one shape, of which models have many, are traced once.
_taps = InFunction("taps", Taps, jit_compile=False)
_island = InFunction("island", partial(Taps, in_microbatches=True), jit_compile=True)
_native = Native(exactly=Taps())

BY_NAME: dict[str, Lowering] = {
    lowering.name: lowering for lowering in (_native, _taps, _island, Portable(outside_xla=_native, under_xla=_taps))
}
