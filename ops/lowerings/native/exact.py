"""The filter gradient where something is not finite: each tap from the samples that exist, and from nothing else.

TensorFlow's kernels multiply the padding's zeros with the output gradient, and 0 * NaN is NaN: what is not finite then
reaches taps that it has no part in. This way has no such terms, and is slow; it runs only when it is needed.
"""

from __future__ import annotations

import tensorflow as tf
from depthwise.ops.spec import ConvSpec

raw = tf.raw_ops


def filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The filter gradient, in a loop over the taps."""
    rows, cols = spec.axes(tf.shape(x), sizes)
    pads = [[0, 0], list(rows.pads), list(cols.pads), [0, 0]]
    on_input = raw.Pad(input=tf.ones_like(x[:1, :, :, :1], tf.float32), paddings=pads)
    x = raw.Pad(input=x, paddings=pads)
    dy = tf.reshape(dy, tf.concat([tf.shape(dy)[:3], sizes[2:]], 0))

    def under(index: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        begin = tf.stack([0, rows.rate * (index // cols.taps), cols.rate * (index % cols.taps), 0])
        sizes = tf.stack([tf.shape(image)[0], rows.reach, cols.reach, tf.shape(image)[3]])
        window = raw.Slice(input=image, begin=begin, size=sizes)  # not strided at once: XLA then asks for a constant
        return raw.StridedSlice(input=window, begin=[0] * 4, end=sizes, strides=[1, rows.stride, cols.stride, 1])[
            ..., tf.newaxis
        ]

    def tap(index: tf.Tensor) -> tf.Tensor:
        met, samples = under(index, on_input), under(index, x)
        return tf.reduce_sum(tf.where(met > 0, samples * dy, tf.zeros([], dy.dtype)), [0, 1, 2])

    taps = tf.map_fn(tap, tf.range(rows.taps * cols.taps), fn_output_signature=dy.dtype)
    return tf.reshape(taps, sizes)
