"""What the forward passes of the layers have in common: the convolution from a layer's attributes, bias, activation."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import keras
import tensorflow as tf
from depthwise.ops import depthwise_conv2d, may_be_differentiated, without_islands


def convolve(layer: Any, inputs: Any, kernel: Any) -> Any:
    """`inputs` convolved with the variable `kernel`, by the strides, padding, dilation, data format and lowering of
    `layer`.

    A model that is traced where nothing is differentiated may be on its way into a file of another format, to whose
    converter an island is a function that it does not know (ONNX), or a hundred ops (LiteRT). So islands are left to
    training.
    """
    if not isinstance(getattr(inputs, "dtype", None), tf.DType):
        # A variable of Keras's, which it hands on as it is; or an array, given to `call` itself.
        inputs = tf.convert_to_tensor(inputs)
    if not inputs.dtype.is_floating and inputs.dtype != layer.compute_dtype:  # Keras casts floating inputs alone
        raise TypeError(
            f"`inputs` of {layer.name} must be floating, as the layer computes in {layer.compute_dtype}, but got"
            f" {inputs.dtype.name}. Cast the images first: keras.ops.cast(images, '{layer.compute_dtype}')."
        )
    strides, padding = pair(layer.strides), layer.padding
    trains = tf.executing_eagerly() or may_be_differentiated()
    with nullcontext() if trains else without_islands():
        outputs = depthwise_conv2d(
            inputs,
            _read(kernel),
            in_order(layer, 1, strides[0], strides[1], 1),
            padding.upper() if isinstance(padding, str) else in_order(layer, (0, 0), padding[0], padding[1], (0, 0)),
            data_format_of(layer),
            layer.dilation_rate,
            lowering=layer.lowering,
        )
    if padding != "same" and 0 in (outputs.shape.dims or ()) and 0 not in inputs.shape:
        # To the op that is an empty tensor; to a network, whose means would be NaN, a mistake. Keras says which.
        layer.compute_output_shape(tuple(inputs.shape))
    return outputs


def finish(layer: Any, outputs: Any) -> Any:
    """The outputs, with the layer's bias and activation."""
    if layer.use_bias:
        # Not keras.ops.add, which takes longer than the convolution of a small image; and TensorFlow fuses this op.
        outputs = tf.raw_ops.BiasAdd(value=outputs, bias=_read(layer.bias), data_format=data_format_of(layer))
    return outputs if layer.activation is None else layer.activation(outputs)


def _read(weight: Any) -> tf.Tensor:
    """A weight's value, in the compute dtype where a mixed policy is at work.

    As `tf.convert_to_tensor(weight)`, without the checks on its way: 10 us of an eager call instead of 15. (And
    `keras.ops.convert_to_tensor` returns the variable itself, over which ops take longer yet.)
    """
    if isinstance(weight, keras.Variable):
        weight = weight.value
    return weight.value() if isinstance(weight, tf.Variable) else tf.convert_to_tensor(weight)


def pair(value: Any) -> Any:
    """(height, width) of a layer's attribute, which may have been set to one number for both since it was made."""
    return (value, value) if isinstance(value, int) else value


def in_order(layer: Any, batch: Any, height: Any, width: Any, channels: Any) -> tuple[Any, ...]:
    """Four values, one per dimension, in the order of the layer's data format."""
    last = layer.data_format == "channels_last"
    return (batch, height, width, channels) if last else (batch, channels, height, width)


def data_format_of(layer: Any) -> str:
    """The data format of a layer, as the op names it."""
    return "NHWC" if layer.data_format == "channels_last" else "NCHW"
