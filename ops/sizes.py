"""Sizes of tensors, as far as they are known while the op is traced."""

from __future__ import annotations

import tensorflow as tf
from depthwise.ops.geometry import Size


def sizes_of(tensor: tf.Tensor) -> list[Size]:
    """The sizes of a tensor: integers where they are known, scalars where not."""
    known = tensor.shape.as_list()
    if None not in known:
        return list(known)
    at_run_time = tf.unstack(tf.shape(tensor))
    return [at_run_time[i] if size is None else size for i, size in enumerate(known)]
