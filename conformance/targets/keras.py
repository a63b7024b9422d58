"""Keras: its op and its layer, and any layer with the same arguments."""

from __future__ import annotations

from typing import Any

import keras
from depthwise.conformance.targets.tensorflow import TensorFlowTarget


def op() -> TensorFlowTarget:
    """`keras.ops.depthwise_conv` on the TensorFlow backend."""

    def convolve(input: Any, filter: Any, strides: Any, padding: Any, data_format: Any, dilations: Any) -> Any:
        arguments = _keras_arguments(strides, padding, data_format, dilations)
        return keras.ops.depthwise_conv(input, filter, **arguments)

    return TensorFlowTarget(convolve)


def layer() -> TensorFlowTarget:
    """`keras.layers.DepthwiseConv2D`."""

    def convolve(input: Any, filter: Any, strides: Any, padding: Any, data_format: Any, dilations: Any) -> Any:
        return call_layer(keras.layers.DepthwiseConv2D, input, filter, strides, padding, data_format, dilations)

    return TensorFlowTarget(convolve)


def call_layer(
    layer_class: Any,
    input: Any,
    filter: Any,
    strides: Any,
    padding: Any,
    data_format: Any,
    dilations: Any,
    explicit: bool = False,
) -> Any:
    """Calls a layer with `filter` in place of its weight, so that gradients reach it.

    Args:
      layer_class: called with the arguments of `keras.layers.DepthwiseConv2D`.
      input, filter, strides, padding, data_format, dilations: as `tf.nn.depthwise_conv2d` takes them.
      explicit: whether the layer takes explicit padding, ((top, bottom), (left, right)).

    Returns:
      The layer's output.

    Raises:
      NotImplementedError: a layer has no argument for that, or refuses it by design.
    """
    kh, kw, channels, multiplier = filter.shape
    if not channels or not multiplier:
        raise NotImplementedError("a layer has at least one channel, and a multiplier of at least 1")
    if not filter.dtype.is_floating:
        raise NotImplementedError("a layer has floating weights")
    arguments = _keras_arguments(strides, padding, data_format, dilations, explicit)
    # No variable is made: a function that is being traced may not, and the filter stands for the only one.
    with keras.StatelessScope(initialize_variables=False):
        layer = layer_class((kh, kw), depth_multiplier=multiplier, use_bias=False, dtype=filter.dtype.name, **arguments)
        layer.build((None, None, None, channels) if data_format == "NHWC" else (None, channels, None, None))
        if input.shape.rank == 4:
            try:
                layer.compute_output_shape(tuple(input.shape))
            except ValueError as error:
                raise NotImplementedError("layers refuse an image that leaves no output") from error
        return layer.stateless_call([filter], [], input)[0]


def _keras_arguments(
    strides: Any, padding: Any, data_format: Any, dilations: Any, explicit: bool = False
) -> dict[str, Any]:
    nhwc = data_format == "NHWC"
    if data_format not in ("NHWC", "NCHW") or len(strides) != 4 or {strides[0], strides[3 if nhwc else 1]} != {1}:
        raise NotImplementedError("Keras has strides of height and width alone, and two data formats")
    sides = slice(1, 3) if nhwc else slice(2, 4)
    return {
        "strides": tuple(strides[sides]),
        "padding": padding.lower() if isinstance(padding, str) else _explicit(padding, sides, explicit),
        "data_format": "channels_last" if nhwc else "channels_first",
        "dilation_rate": tuple(dilations or (1, 1)),
    }


def _explicit(padding: Any, sides: slice, is_taken: bool) -> Any:
    if not is_taken:
        raise NotImplementedError("Keras has no explicit padding")
    pairs = [tuple(pair) for pair in padding]
    others = [pair for at, pair in enumerate(pairs) if not sides.start <= at < sides.stop]
    if len(pairs) != 4 or others != [(0, 0), (0, 0)]:
        raise NotImplementedError("a layer has padding of height and width alone")
    return tuple(pairs[sides])
