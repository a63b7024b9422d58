"""SeparableConv2D: Keras's layer of that name, its depthwise half computed by `depthwise.ops`."""

from __future__ import annotations

from typing import Any

import keras
from depthwise.layers.forward import convolve, finish
from depthwise.layers.lowering import Lowered


@keras.saving.register_keras_serializable(package="depthwise")
class SeparableConv2D(Lowered, keras.layers.SeparableConv2D):  # type: ignore[misc]  # Keras carries no types
    """Depthwise convolution, then a 1x1 convolution: `keras.layers.SeparableConv2D`, its first half by `depthwise.ops`.

    Args, Returns, Raises: those of `keras.layers.SeparableConv2D`, with the same defaults, config keys, weights and
    initial values; and `lowering`, as `DepthwiseConv2D` has it, of the depthwise half. Inputs are of shape
    (batch, height, width, channels), or (batch, channels, height, width) for `data_format="channels_first"`; outputs
    have `filters` channels.

    Example:
      >>> import numpy as np
      >>> from depthwise.layers import SeparableConv2D
      >>> SeparableConv2D(16, 3, strides=2, padding="same")(np.ones((4, 10, 12, 8), "float32")).shape
      TensorShape([4, 5, 6, 16])
    """

    def call(self, inputs: Any) -> Any:
        outputs = convolve(self, inputs, self.depthwise_kernel)
        if self.data_format == "channels_last":
            outputs = keras.ops.conv(outputs, self.pointwise_kernel, data_format=self.data_format)
        else:  # as a product of matrices: some builds of TensorFlow have no NCHW convolution on a CPU
            outputs = keras.ops.einsum("bchw,cf->bfhw", outputs, self.pointwise_kernel[0, 0])
        return finish(self, outputs)
