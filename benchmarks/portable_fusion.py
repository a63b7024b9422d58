"""What `portable` costs in a plain graph, beside a branch that is taken where the graph runs.

    python -m benchmarks.portable_fusion

Ten layers of convolution, bias and relu6, of which Grappler fuses each into one kernel where it sees all three (on
builds with oneDNN): it does with `portable`, whose condition is gone by then, and not behind a branch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tensorflow as tf
from depthwise.ops import depthwise_conv2d
from rich.console import Console
from rich.table import Table

from benchmarks.alternate import alternate

LAYERS = 10
SHAPE = (4, 56, 56, 64)
Convolution = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def convolution(lowering: str, x: tf.Tensor, filters: tf.Tensor) -> tf.Tensor:
    """The convolution of every layer."""
    return depthwise_conv2d(x, filters, [1, 1, 1, 1], "SAME", lowering=lowering)


def branch(x: tf.Tensor, filters: tf.Tensor) -> tf.Tensor:
    """Native outside XLA and taps under it, by the branch that TensorFlow offers for it."""

    def native() -> tf.Tensor:
        return convolution("native", x, filters)

    index = tf.raw_ops.DeviceIndex(device_names=["CPU", "GPU"])
    return tf.switch_case(index, [native, native, lambda: convolution("taps", x, filters)])


def network(convolve: Convolution) -> Callable[[tf.Tensor], tf.Tensor]:
    """Ten layers with weights of their own, in a plain graph."""
    weights = [
        (tf.Variable(tf.random.normal([3, 3, SHAPE[3], 1])), tf.Variable(tf.zeros(SHAPE[3]))) for _ in range(LAYERS)
    ]

    def run(x: tf.Tensor) -> tf.Tensor:
        for filters, bias in weights:
            x = tf.nn.relu6(tf.nn.bias_add(convolve(x, tf.convert_to_tensor(filters)), bias))
        return x

    function: Callable[[tf.Tensor], tf.Tensor] = tf.function(run, autograph=False)
    return function


def _finished(run: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> Any:
    return run(x).numpy()


def main() -> None:
    """Measures and prints."""
    x = tf.random.normal(SHAPE)
    convolutions: dict[str, Convolution] = {
        "native": partial(convolution, "native"),
        "portable": partial(convolution, "portable"),
        "branch": branch,
    }
    networks = {name: network(convolve) for name, convolve in convolutions.items()}
    calls = {name: partial(_finished, run, x) for name, run in networks.items()}
    for call in calls.values():
        call()
    times = alternate(calls, budget_s=2.0)
    table = Table("network", "ms", "to native", title=f"{LAYERS} layers on {SHAPE}, float32, plain graph")
    for name, timing in times.items():
        table.add_row(name, f"{timing.wall_ms:.3g}", f"{timing.wall_ms / times['native'].wall_ms:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
