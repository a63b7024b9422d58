"""Sizes of tensors, as far as they are known while the op is traced."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from depthwise.ops.geometry import Size


def sizes_of(tensor: tf.Tensor) -> list[Size]:
    """The sizes of a tensor: integers where they are known, scalars where not."""
    known = tensor.shape.as_list()
    if None not in known:
        return list(known)
    at_run_time = tf.unstack(tf.shape(tensor))
    return [at_run_time[i] if size is None else size for i, size in enumerate(known)]


def told(tensor: tf.Tensor, shape: Sequence[int | None]) -> tf.Tensor:
    """The tensor, told what is known of its shape. (By no `ensure_shape`, which forward mode in a graph fails on.)"""
    if tf.executing_eagerly() or tensor.shape.is_fully_defined():
        return tensor
    known = tensor.shape.merge_with(shape)
    if tensor.shape.rank is None or known.as_list() != tensor.shape.as_list():
        tensor = tf.identity(tensor)
        tensor.set_shape(known)
    return tensor
