"""The op as two lowerings at once, one of which is chosen where it runs: for models saved now and compiled later.

`tf.raw_ops.DeviceIndex` gives the index of the device's type among the names it is given, and their number under XLA.
Under XLA it is a constant, and the other branches disappear from what is compiled. Outside XLA it is a branch at run
time, of which one side runs. The choice is part of the graph, so it survives saving, in models that are loaded without
this package too.

LiteRT's converter, and devices of other names, see what XLA sees: the last branch. So a model that shall go to LiteRT
as one DEPTHWISE_CONV_2D a layer must be made with "auto" instead.

Its price: outside XLA the branch hides the convolution from Grappler's fusion with bias and activation. Ten layers of
the three on (4,56,56,64) take 2.1 times what they take with `native`. The fusion comes back where a branch holds all
three (1.2), or the whole network (1.06): for whoever writes such a branch, with `native` and `taps` by name in it
(`python -m benchmarks.portable_fusion` measures both).
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from depthwise.ops.lowerings.base import Contraction, Lowering, Mode
from depthwise.ops.spec import ConvSpec

DEVICES = ("CPU", "GPU")


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

    def input_grad(self, spec: ConvSpec, filter: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        return self._where_it_runs(lambda lowering: lowering.input_grad(spec, filter, dy, sizes))

    def filter_grad(self, spec: ConvSpec, input: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        return self._where_it_runs(lambda lowering: lowering.filter_grad(spec, input, dy, sizes))

    def _where_it_runs(self, compute: Callable[[Lowering], tf.Tensor]) -> tf.Tensor:
        def outside_xla() -> tf.Tensor:
            return compute(self.outside_xla)

        def under_xla() -> tf.Tensor:
            return compute(self.under_xla)

        index = tf.raw_ops.DeviceIndex(device_names=list(DEVICES))
        return tf.switch_case(index, [*[outside_xla] * len(DEVICES), under_xla])
