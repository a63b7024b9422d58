"""The reference: TensorFlow's own op."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from depthwise.conformance.targets.tensorflow import TensorFlowTarget


def op() -> TensorFlowTarget:
    """`tf.nn.depthwise_conv2d`."""
    return TensorFlowTarget(_documented)


def _documented(input: Any, filter: Any, *arguments: Any, **keywords: Any) -> Any:
    # Other numbers are documented as unsupported. Strides with dilations are too, but there it returns a result.
    if input.dtype.is_integer or input.dtype.is_complex:
        raise NotImplementedError("tf.nn.depthwise_conv2d takes half, bfloat16, float32 and float64")
    return tf.nn.depthwise_conv2d(input, filter, *arguments, **keywords)
