"""DepthwiseConv2D: Keras's layer of that name, computed by `depthwise.ops`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
from depthwise.layers.forward import convolve, finish, in_order, pair
from depthwise.layers.lowering import Lowered

Pads: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
Shape: TypeAlias = tuple[Any, ...]


@keras.saving.register_keras_serializable(package="depthwise")
class DepthwiseConv2D(Lowered, keras.layers.DepthwiseConv2D):  # type: ignore[misc]  # Keras carries no types
    """2-D depthwise convolution: a drop-in for `keras.layers.DepthwiseConv2D`, computed by `depthwise.ops`.

    Arguments, defaults, config keys, weights and initial values are those of Keras's layer, which it extends by
    explicit padding, strides with dilations in every Keras version, unequal strides and `channels_first` on every
    device, and the choice of a lowering. Under `jit_compile=True` it is many times faster on a CPU.

    Args:
      kernel_size: int, or (height, width): the filter's taps.
      strides: int, or (height, width).
      padding: "valid", "same" (any case), or ((top, bottom), (left, right)): rows and columns of zeros, none negative.
      depth_multiplier: outputs per input channel.
      data_format: "channels_last", "channels_first", or None for Keras's `image_data_format`.
      dilation_rate: int, or (height, width): the distance between taps.
      activation: applied to the output; a name, a callable, or None.
      use_bias: whether a bias is added.
      depthwise_initializer, bias_initializer: of the two weights.
      depthwise_regularizer, bias_regularizer, activity_regularizer: penalties on the weights and on the output.
      depthwise_constraint, bias_constraint: projections of the weights after each update.
      lowering: how the convolution is computed: "auto", or one of `depthwise.ops.LOWERINGS`.
      **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`, ...

    Call arguments:
      inputs: of shape (batch, height, width, channels), or (batch, channels, height, width) for "channels_first"; of
        the layer's compute dtype, which floating inputs are cast to.

    Returns:
      (batch, new_height, new_width, channels * depth_multiplier), or for "channels_first"
      (batch, channels * depth_multiplier, new_height, new_width), of the layer's compute dtype.

    Raises:
      ValueError: an argument breaks a rule of Keras's layer, `padding` is none of the three forms, or there is no such
        `lowering`; on a call, the input's shape leaves no output.
      TypeError: `lowering` is no string; on a call, the inputs are integers.
      NotImplementedError: on the first call, a `lowering` asked for by name cannot do the case.

    Example:
      >>> import numpy as np
      >>> from depthwise.layers import DepthwiseConv2D
      >>> layer = DepthwiseConv2D(3, strides=(1, 2), padding=((1, 1), (0, 2)), dilation_rate=2, activation="relu")
      >>> layer(np.ones((4, 10, 12, 8), "float32")).shape
      TensorShape([4, 8, 5, 8])
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = (1, 1),
        padding: str | Sequence[Sequence[int]] = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = (1, 1),
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        lowering: str = "auto",
        **kwargs: Any,
    ) -> None:
        explicit, rates = not isinstance(padding, str), _rates(dilation_rate)
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding="valid" if explicit else padding,
            depth_multiplier=depth_multiplier,
            data_format=data_format,
            dilation_rate=1 if rates else dilation_rate,  # Keras before 3.13 refuses strides with dilations
            activation=activation,
            use_bias=use_bias,
            depthwise_initializer=depthwise_initializer,
            bias_initializer=bias_initializer,
            depthwise_regularizer=depthwise_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            depthwise_constraint=depthwise_constraint,
            bias_constraint=bias_constraint,
            lowering=lowering,
            **kwargs,
        )
        if rates:
            self.dilation_rate = rates
        if explicit:
            self.padding: str | Pads = _pads(padding)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.compute_output_shape(input_shape)  # raises if the image leaves no output: not every Keras asks in `build`

    def call(self, inputs: Any) -> Any:
        return finish(self, convolve(self, inputs, self.kernel))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        if isinstance(self.padding, str) or len(input_shape) != 4:
            return tuple(super().compute_output_shape(input_shape))
        last = self.data_format == "channels_last"
        image, channels = (input_shape[1:3], input_shape[3]) if last else (input_shape[2:], input_shape[1])
        strides, rates = pair(self.strides), pair(self.dilation_rate)
        along = zip(image, self.padding, self.kernel_size, strides, rates, strict=True)
        height, width = (
            # The dilated windows that fit into the padded image.
            None if size is None else (size + sum(pads) - rate * (taps - 1) - 1) // stride + 1
            for size, pads, taps, stride, rate in along
        )
        if any(size is not None and size < 1 for size in (height, width)):
            raise ValueError(
                "DepthwiseConv2D must leave an output of at least 1 x 1, but the filter, dilated, is larger than the"
                f" padded image: inputs shape={input_shape}, padding={self.padding}, kernel_size={self.kernel_size},"
                f" dilation_rate={self.dilation_rate}. Pad more, or use a smaller kernel."
            )
        return in_order(self, input_shape[0], height, width, channels * self.depth_multiplier)


def _rates(dilation_rate: Any) -> tuple[int, int] | None:
    """Valid rates as a pair; None for what Keras shall refuse."""
    pair = (dilation_rate, dilation_rate) if isinstance(dilation_rate, int) else dilation_rate
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return None
    return (pair[0], pair[1]) if all(type(rate) is int and rate > 0 for rate in pair) else None


def _pads(padding: Any) -> Pads:
    """((top, bottom), (left, right)) as tuples of Python integers."""
    try:
        (top, bottom), (left, right) = padding
        pads = [operator.index(pad) for pad in (top, bottom, left, right)]
        if min(pads) < 0 or any(isinstance(pad, bool) for pad in (top, bottom, left, right)):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            "DepthwiseConv2D argument `padding` must be 'valid', 'same' or ((top, bottom), (left, right)) with integers"
            f" of at least 0, but got {padding!r}. For one row above the image alone, pass ((1, 0), (0, 0))."
        ) from None
    return (pads[0], pads[1]), (pads[2], pads[3])
