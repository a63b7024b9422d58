"""Keras layers: drop-ins for Keras's own of the same names, and convert, which swaps them in."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "depthwise.layers must run on Keras's 'tensorflow' backend, but Keras was loaded with"
        f" {keras.backend.backend()!r}. Set the environment variable KERAS_BACKEND=tensorflow before anything imports"
        " keras."
    )

from depthwise.layers.conv2d import Conv2D
from depthwise.layers.convert import convert
from depthwise.layers.depthwise_conv2d import DepthwiseConv2D
from depthwise.layers.separable_conv2d import SeparableConv2D

__all__ = ["Conv2D", "DepthwiseConv2D", "SeparableConv2D", "convert"]
