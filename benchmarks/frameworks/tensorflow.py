"""This package's op and layer, TensorFlow's op, Keras's layer, and the floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import tensorflow as tf
from depthwise.layers import DepthwiseConv2D
from depthwise.ops import LOWERINGS, depthwise_conv2d

from benchmarks.case import BYTES, Case
from benchmarks.measurement import ANY_BATCH, FLOOR, MODES, PER_EXAMPLE
from benchmarks.memory import resident_peak_mb

raw = tf.raw_ops

Tensors: TypeAlias = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
Call: TypeAlias = Callable[[], Any]

IMPLEMENTATIONS: dict[str, tuple[str, ...]] = {
    FLOOR: MODES,
    "tf.nn": MODES,
    "depthwise": MODES,
    "keras layer": MODES,
    "depthwise layer": MODES,
    # taps outside XLA makes one pass over memory for each of its multiply-adds: not worth the time to measure.
    **{f"depthwise:{name}": ("xla",) if name == "taps" else MODES for name in LOWERINGS},
}

_PIECES = [round(2 ** (exponent / 2)) for exponent in range(48, 28, -1)]
"""Numbers of elements, from 64 MiB downwards."""


def prepare(case: Case, implementation: str, mode: str, quantity: str) -> Call:
    """The call to measure."""
    x, w, dy = tensors = _tensors(case)
    any_batch = [_of_any_size(x), tf.TensorSpec(w.shape, w.dtype), _of_any_size(dy)]
    if implementation == FLOOR:
        data = tf.random.stateless_uniform([case.bytes_moved // 2 // BYTES[case.dtype]], [1, 2])
        data = tf.cast(data, case.dtype)
        double = _in_mode(lambda t: t * 2, mode, [_of_any_size(data)])
        return _finished(lambda: double(data))
    op = _layer(case, implementation, w) if implementation.endswith("layer") else _op(case, implementation)
    if quantity == "output":
        forward = _in_mode(op, mode, any_batch[:2])
        return _finished(lambda: forward(x, w))
    if quantity == PER_EXAMPLE:
        mapped = _in_mode(_per_example(op), mode, any_batch)
        return _finished(lambda: mapped(*tensors))
    if mode == "eager" and quantity != "step":
        return _finished(_eager_gradient(op, tensors, quantity))
    gradients = _in_mode(_gradients(op, quantity), mode, any_batch)
    return _finished(lambda: gradients(*tensors))


def peak_mb(call: Call) -> float | None:
    """Peak memory of a call: what the allocator counts, where it does, and on a CPU what libraries take beside it.

    With oneDNN the allocator keeps its pages, so that the process's resident memory shows nothing but the latter.
    """
    device = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
    try:
        tf.config.experimental.reset_memory_stats(device)
    except ValueError:
        return resident_peak_mb(call)
    # It counts the free piece that it takes, of up to twice what it is asked for. So pieces that lie free are held
    # meanwhile, as many as will do, for the call's to be cut from one large piece.
    held = [raw.Empty(shape=[size], dtype=tf.float32) for size in _PIECES for _ in range(4)]
    tf.config.experimental.reset_memory_stats(device)
    before = tf.config.experimental.get_memory_info(device)["current"]
    call()
    peak: float = (tf.config.experimental.get_memory_info(device)["peak"] - before) / 2**20
    del held
    if device == "GPU:0":
        return peak
    # The least of a few, for a call may also be the first to take a page of the allocator's.
    return peak + min(resident_peak_mb(call) or 0.0 for _ in range(4))


def _tensors(case: Case) -> Tensors:
    shapes = (case.input_shape, case.filter_shape, case.output_shape)
    x, w, dy = (tf.cast(tf.random.stateless_normal(shape, [seed, 1]), case.dtype) for seed, shape in enumerate(shapes))
    return x, w, dy


def _op(case: Case, implementation: str) -> Callable[..., tf.Tensor]:
    """(input, filter) -> output."""
    arguments = case.arguments()
    if implementation == "tf.nn":
        if case.strides != (1, 1) and case.dilations != (1, 1):
            raise NotImplementedError("tf.nn.depthwise_conv2d computes strides with dilations wrongly")
        if case.dilations == (1, 1):
            del arguments["dilations"]  # as those who don't dilate call it
        return lambda x, w: tf.nn.depthwise_conv2d(x, w, **arguments)
    lowering = implementation.partition(":")[2] or "auto"
    return lambda x, w: depthwise_conv2d(x, w, **arguments, lowering=lowering)


def _layer(case: Case, implementation: str, w: tf.Tensor) -> Callable[..., tf.Tensor]:
    """(input, anything) -> output, with the layer's own weights, which are given the values of w."""
    if isinstance(case.padding, int):
        raise NotImplementedError("Keras's layer has no explicit padding")
    kind = DepthwiseConv2D if implementation == "depthwise layer" else keras.layers.DepthwiseConv2D
    layer = kind(
        case.kernel,
        strides=case.strides,
        padding=case.padding.lower(),
        depth_multiplier=case.multiplier,
        data_format="channels_last" if case.data_format == "NHWC" else "channels_first",
        dilation_rate=case.dilations,
        use_bias=False,
        dtype=case.dtype,
    )
    layer.build(case.input_shape)
    layer.kernel.assign(w)

    def call(x: tf.Tensor, unused: tf.Tensor) -> tf.Tensor:
        return layer(x)

    call.weights = layer.kernel.value  # type: ignore[attr-defined]
    return call


def _gradients(op: Callable[..., tf.Tensor], quantity: str) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Any]:
    """(input, filter, output gradient) -> what the quantity wants. In a graph, what nobody asks for is not computed."""

    def compute(x: tf.Tensor, w: tf.Tensor, dy: tf.Tensor) -> Any:
        weights = getattr(op, "weights", w)
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = op(x, w)
        dx, dw = tape.gradient(y, [x, weights], output_gradients=dy)
        return {"input_grad": dx, "filter_grad": dw, "step": (y, dx, dw)}[quantity]

    return compute


def _per_example(op: Callable[..., tf.Tensor]) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """(input, filter, output gradient) -> the filter gradient of each image alone, stacked."""

    def compute(x: tf.Tensor, w: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        weights = getattr(op, "weights", w)

        def alone(example: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            image, upstream = example
            with tf.GradientTape() as tape:
                tape.watch(weights)
                y = op(image[tf.newaxis], w)
            return tape.gradient(y, weights, output_gradients=upstream[tf.newaxis])

        return tf.vectorized_map(alone, (x, dy))

    return compute


def _eager_gradient(op: Callable[..., tf.Tensor], tensors: Tensors, quantity: str) -> Call:
    """The gradient alone: the forward pass is recorded once, and played back again and again."""
    x, w, dy = tensors
    source = x if quantity == "input_grad" else getattr(op, "weights", w)
    with tf.GradientTape(persistent=True, watch_accessed_variables=quantity == "filter_grad") as tape:
        if source is x or source is w:
            tape.watch(source)
        y = op(x, w)
    return lambda: tape.gradient(y, source, output_gradients=dy)


def _in_mode(function: Callable[..., Any], mode: str, any_batch: list[tf.TensorSpec]) -> Callable[..., Any]:
    """The function as the mode calls it; `any_batch`: its arguments, where their batch is unknown."""
    if mode == "eager":
        return function
    signature = any_batch if mode == ANY_BATCH else None
    traced: Callable[..., Any] = tf.function(function, jit_compile=mode == "xla", input_signature=signature)
    return traced


def _of_any_size(tensor: tf.Tensor) -> tf.TensorSpec:
    """Tensors like this one, of any first dimension."""
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


def _finished(call: Call) -> Call:
    """On a GPU a call returns before its work is done."""
    if not tf.config.list_physical_devices("GPU"):
        return call

    def wait() -> Any:
        result = call()
        tf.test.experimental.sync_devices()
        return result

    return wait
