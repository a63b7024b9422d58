"""The sum of tensors, in an order that is always the same."""

from __future__ import annotations

import tensorflow as tf
from depthwise.ops.mode import is_under_xla

raw = tf.raw_ops


def total(terms: list[tf.Tensor]) -> tf.Tensor:
    """The sum of one or more tensors of one shape, in their order.

    XLA writes an AddN as additions in that order. TensorFlow's own begins with whichever term leaves it its buffer, so
    that the same graph gives other last bits from call to call; and of a chain of additions Grappler makes an AddN,
    unless something stands between them.
    """
    found, *rest = terms
    if rest and is_under_xla():
        return raw.AddN(inputs=terms)
    for term in rest:
        found = raw.EnsureShape(input=raw.AddV2(x=found, y=term), shape=found.shape)
    return found
