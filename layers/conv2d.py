"""Conv2D: Keras's layer of that name, whose depthwise case is computed by `depthwise.ops`."""

from __future__ import annotations

from typing import Any

import keras
from depthwise.layers.forward import convolve
from depthwise.layers.lowering import Lowered


@keras.saving.register_keras_serializable(package="depthwise")
class Conv2D(Lowered, keras.layers.Conv2D):  # type: ignore[misc]  # Keras carries no types
    """`keras.layers.Conv2D`, computed by `depthwise.ops` where there are several groups, of one input channel each.

    Some models (ConvNeXt) write their depthwise convolutions as `Conv2D(filters, groups=channels)`: filter number
    `k*M + q` then sees input channel k alone, which is a depthwise convolution with multiplier M. Anything else is
    left to Keras, whatever `lowering` says, an image of one channel included.

    Args, Returns, Raises: those of `keras.layers.Conv2D`, with the same defaults, config keys, weights and initial
    values; and `lowering`, as `DepthwiseConv2D` has it. Inputs are of shape (batch, height, width, channels), or
    (batch, channels, height, width) for `data_format="channels_first"`; outputs have `filters` channels.

    Example:
      >>> import numpy as np
      >>> from depthwise.layers import Conv2D
      >>> Conv2D(16, 7, padding="same", groups=8)(np.ones((4, 10, 12, 8), "float32")).shape
      TensorShape([4, 10, 12, 16])
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        if self.groups == 1 or kernel.shape[2] > 1:
            return super().convolution_op(inputs, kernel)
        filters = keras.ops.reshape(kernel, (*self.kernel_size, self.groups, self.filters // self.groups))
        return convolve(self, inputs, filters)
