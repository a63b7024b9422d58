"""The filter gradient as a sum over microbatches: a loop, each turn of which takes a few images.

Between its two stages `correlate` writes as much as the images hold, times taps, over the terms of a sum: for large
filters several times the images themselves. Of a few images that stays in the cache.

Not for XLA:GPU, where each turn would begin and end kernels of its own.
"""

from __future__ import annotations

from dataclasses import replace

import tensorflow as tf
from depthwise.ops.geometry import ceil_div
from depthwise.ops.lowerings.base import Sizes
from depthwise.ops.lowerings.taps import correlate
from depthwise.ops.lowerings.taps.columns import COLUMN_TERMS, partial_sums
from depthwise.ops.lowerings.taps.layout import Layout, shaped
from depthwise.ops.spec import ConvSpec

raw = tf.raw_ops

MOST_SUMS = 5 * 2**17
"""Most partial sums of a microbatch that has several images; of one that has not, most with COLUMN_TERMS. 7x7 on
(32,14,14,384) took 7.9 ms and 64 MiB, and takes 5.6 and 3.5; 7x7 on (8,7,7,768) 1.8 ms and 16 MiB, and takes 1.5 and 3
two images at a time, 2.0 one at a time. 31x31 on (8,56,56,128) took 250 ms, and takes 190, but 640 in COLUMN_TERMS."""
FEWER = 4
"""How many times fewer images a microbatch may have than it could, because the batch is to be divided by them."""


def filter_grad(spec: ConvSpec, x: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """The filter gradient, of a filter whose height and width are known."""
    images = _images(spec)
    if images is None:
        return correlate.filter_grad(spec, x, dy, sizes)
    microbatch, turns, layout = replace(spec, batch=images), x.shape[0] // images, Layout(spec, sizes)

    def turn(k: tf.Tensor, summed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        some_x, some_dy = (_part(layout, image, k * images, images) for image in (x, dy))
        found = correlate.filter_grad(microbatch, some_x, some_dy, sizes, MOST_SUMS)
        return k + 1, summed + shaped(found, spec.filter_shape)

    nothing = tf.zeros(spec.filter_shape, dy.dtype)
    return tf.while_loop(lambda k, _: k < turns, turn, (0, nothing))[1]


def _images(spec: ConvSpec) -> int | None:
    """Images of a microbatch, by which the batch can be divided; None where no loop pays, or sizes are unknown."""
    batch, channels, multiplier = spec.batch, spec.channels, spec.multiplier
    if batch is None or channels is None or multiplier is None or spec.may_be_empty:
        return None
    width = ceil_div(spec.cols.output, COLUMN_TERMS)
    sums = partial_sums(spec.rows, spec.cols, width, channels * multiplier)
    # To copy images (`_part`) takes longer than it saves if they are larger than the sums: the filter gradient of 3x3,
    # rate 2, on (8,56,56,128) takes 3.3 ms, and would take 3.8. In NCHW they are copied anyway, to be transposed.
    if spec.data_format == "NHWC" and sums <= spec.rows.size * spec.cols.size * channels:
        return None
    most = max(1, min(batch, MOST_SUMS // sums))
    images = max(n for n in range(1, most + 1) if batch % n == 0)
    # Many turns of little work each take longer than one of all.
    return images if images < batch and most <= FEWER * images else None


def _part(layout: Layout, image: tf.Tensor, first: tf.Tensor, images: int) -> tf.Tensor:
    """So many images from the first on. In memory, if NHWC: arithmetic on what begins anywhere is scalar code."""
    sizes = image.shape.as_list()[1:]
    part = raw.Slice(input=image, begin=tf.stack([first, 0, 0, 0]), size=[images, *sizes])
    part = shaped(part, (images, *sizes))
    return part if layout.spec.data_format == "NCHW" else layout.in_buffer(part)[:, :, : sizes[1]]
