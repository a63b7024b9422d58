"""What the forward passes of the layers have in common: the convolution from a layer's attributes, bias, activation."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from depthwise.ops import depthwise_conv2d, explain
from depthwise.ops.gradients import may_be_differentiated


def convolve(layer: Any, inputs: Any, kernel: Any, lowering: str) -> Any:
    """`inputs` convolved with the variable `kernel`, by the strides, padding, dilation and data format of `layer`.

    A model that is traced where nothing is differentiated may be on its way into a file of another format, to whose
    converter an island is a function that it does not know (ONNX), or a hundred ops (LiteRT). So islands are left to
    training.
    """
    last, padding = layer.data_format == "channels_last", layer.padding
    arguments = (
        inputs,
        tf.convert_to_tensor(kernel),  # in the compute dtype, where a mixed policy is at work
        in_order(last, 1, layer.strides[0], layer.strides[1], 1),
        padding.upper() if isinstance(padding, str) else in_order(last, (0, 0), padding[0], padding[1], (0, 0)),
        "NHWC" if last else "NCHW",
        layer.dilation_rate,
    )
    if lowering == "auto" and not tf.executing_eagerly() and not may_be_differentiated():
        lowering = "native" if explain(*arguments).output.lowering == "island" else "auto"
    return depthwise_conv2d(*arguments, lowering=lowering)


def finish(layer: Any, outputs: Any) -> Any:
    """The outputs, with the layer's bias and activation."""
    if layer.use_bias:
        # Not keras.ops.add, which takes longer than the convolution of a small image; and TensorFlow fuses this op.
        # Read first (keras.ops.convert_to_tensor hands a variable on): ops are slow at variables in eager code.
        data_format = "NHWC" if layer.data_format == "channels_last" else "NCHW"
        outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias), data_format)
    return outputs if layer.activation is None else layer.activation(outputs)


def in_order(channels_last: bool, batch: Any, height: Any, width: Any, channels: Any) -> tuple[Any, Any, Any, Any]:
    """Four values, one per dimension, in the order of the data format."""
    return (batch, height, width, channels) if channels_last else (batch, channels, height, width)
