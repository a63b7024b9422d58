"""What `portable` costs in a plain graph, and how much of that comes back with bias and activation inside the branch.

    python -m benchmarks.portable_fusion

Ten layers of convolution, bias and relu6, of which Grappler fuses each into one kernel where it sees all three.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import tensorflow as tf
from depthwise.ops import depthwise_conv2d
from rich.console import Console
from rich.table import Table

from benchmarks.alternate import alternate

LAYERS = 10
SHAPE = (4, 56, 56, 64)
Step = Callable[[tf.Tensor], tf.Tensor]


def layer(filters: tf.Variable, bias: tf.Variable, lowering: str, x: tf.Tensor) -> tf.Tensor:
    """Convolution, bias and activation."""
    y = depthwise_conv2d(x, filters, [1, 1, 1, 1], "SAME", lowering=lowering)
    return tf.nn.relu6(tf.nn.bias_add(y, bias))


def branched(step: Callable[[str], Step]) -> Step:
    """What a step is with native outside XLA and taps under it, decided where it runs, as `portable` decides it."""

    def run(x: tf.Tensor) -> tf.Tensor:
        def native() -> tf.Tensor:
            return step("native")(x)

        index = tf.raw_ops.DeviceIndex(device_names=["CPU", "GPU"])
        return tf.switch_case(index, [native, native, lambda: step("taps")(x)])

    return run


def chain(steps: list[Step]) -> Step:
    """The steps one after the other."""
    return lambda x: reduce(lambda y, step: step(y), steps, x)


def main() -> None:
    """Measures and prints."""
    weights = [
        (tf.Variable(tf.random.normal([3, 3, SHAPE[3], 1])), tf.Variable(tf.zeros(SHAPE[3]))) for _ in range(LAYERS)
    ]
    networks = {
        "native": chain([partial(layer, *w, "native") for w in weights]),
        "portable": chain([partial(layer, *w, "portable") for w in weights]),
        "a branch around each layer": chain([branched(partial(partial, layer, *w)) for w in weights]),
        "one branch around all": branched(lambda name: chain([partial(layer, *w, name) for w in weights])),
    }
    x = tf.random.normal(SHAPE)
    functions = {name: tf.function(network, autograph=False) for name, network in networks.items()}
    calls = {name: lambda function=function: function(x).numpy() for name, function in functions.items()}
    for call in calls.values():
        call()
    times = alternate(calls, budget_s=2.0)
    table = Table("network", "ms", "to native", title=f"{LAYERS} layers on {SHAPE}, float32, plain graph")
    for name, timing in times.items():
        table.add_row(name, f"{timing.wall_ms:.3g}", f"{timing.wall_ms / times['native'].wall_ms:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
