"""The op as two lowerings at once, one of which is chosen where it runs: for models saved now and compiled later.

The graph holds both, under a condition that asks whether XLA compiles it (`_under_xla`). Whoever prepares the graph can
answer that before anything runs, and then only one side is left:

    XLA         sees True, and compiles `taps`;
    Grappler    sees False in a graph that XLA does not compile, and removes the other side; so the kernel stands in the
                open, where its fusion with bias and activation finds it, as if `native` had been asked for;
    LiteRT      sees False, and converts the kernel to one DEPTHWISE_CONV_2D.

The condition is part of the graph, so it survives saving, in models that are loaded without this package too. Its price
is the time to trace and to prepare both sides (`python -m benchmarks.portable_fusion` measures what it costs then).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from depthwise.ops.lowerings.base import Contraction, Lowering, Sizes
from depthwise.ops.mode import Mode, without_islands
from depthwise.ops.spec import ConvSpec

raw = tf.raw_ops


class Portable:
    """One lowering outside XLA, another under it, decided at run time."""

    name = "portable"

    def __init__(self, outside_xla: Lowering, under_xla: Lowering) -> None:
        self.outside_xla, self.under_xla = outside_xla, under_xla

    def refuses(self, spec: ConvSpec, contraction: Contraction, mode: Mode) -> str | None:
        places: tuple[tuple[Lowering, Mode], ...] = ((self.outside_xla, "graph"), (self.under_xla, "xla"))
        for lowering, where in places:
            refusal = lowering.refuses(spec, contraction, where)
            if refusal:
                return f"it is made of two lowerings, and {lowering.name} refuses: {refusal}"
        return None

    def output(self, spec: ConvSpec, input: tf.Tensor, filter: tf.Tensor) -> tf.Tensor:
        return self._where_it_runs(lambda lowering: lowering.output(spec, input, filter))

    def input_grad(self, spec: ConvSpec, filter: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        return self._where_it_runs(lambda lowering: lowering.input_grad(spec, filter, dy, sizes))

    def filter_grad(self, spec: ConvSpec, input: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        return self._where_it_runs(lambda lowering: lowering.filter_grad(spec, input, dy, sizes))

    def _where_it_runs(self, compute: Callable[[Lowering], tf.Tensor]) -> tf.Tensor:
        if tf.executing_eagerly():
            return compute(self.outside_xla)
        with without_islands():  # what is converted is to be one op
            return tf.cond(_under_xla(), lambda: compute(self.under_xla), lambda: compute(self.outside_xla))


def _under_xla() -> tf.Tensor:
    """Whether XLA compiles the graph that this stands in, as a boolean scalar.

    No op says so to XLA, Grappler and LiteRT alike: `DeviceIndex` has a value of its own under XLA, but LiteRT takes
    that too. What tells them apart is a shift by all 32 bits of an integer, which XLA defines to leave none, while
    TensorFlow's kernels, with which Grappler and LiteRT evaluate constants, shift by 31 at most.

    XLA would have TensorFlow's kernels evaluate it as well, if it were made of constants. So a zero is added that XLA
    cannot evaluate beforehand, for it depends on an op with a state. The two others can: to LiteRT, which replaces
    empty tensors by constants, it is the sum of no elements; to Grappler a product with zero.
    """
    none = raw.Slice(input=tf.reshape(raw.DeviceIndex(device_names=["CPU"]), [1]), begin=[0], size=[0])
    zero = raw.Mul(x=tf.reduce_sum(none), y=tf.constant(0))
    return raw.Equal(x=raw.LeftShift(x=tf.constant(1), y=raw.AddV2(x=tf.constant(32), y=zero)), y=tf.constant(0))
