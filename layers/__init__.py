"""Keras layers: DepthwiseConv2D, a drop-in for Keras's own."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "depthwise.layers must run on Keras's 'tensorflow' backend, but Keras was loaded with"
        f" {keras.backend.backend()!r}. Set the environment variable KERAS_BACKEND=tensorflow before anything imports"
        " keras."
    )

from depthwise.layers.depthwise_conv2d import DepthwiseConv2D

__all__ = ["DepthwiseConv2D"]
