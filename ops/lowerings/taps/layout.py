"""Where the dimensions of an image tensor stand, in either data format, with and without a channel multiplier.

With a multiplier M, the channel dimension of an image is written as two, [C, M]; the input, which has no second one,
gets [C, 1]. Products of input, filter and output gradient then broadcast. Where M is 1 the dimension is left out.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from depthwise.ops.geometry import Run
from depthwise.ops.spec import ConvSpec

raw = tf.raw_ops


class Layout:
    """The dimensions of a spec's images, and the few things that are done along them."""

    def __init__(self, spec: ConvSpec, filter_sizes: tf.Tensor) -> None:
        self.spec = spec
        self.channels = filter_sizes[2] if spec.channels is None else spec.channels
        self.multiplier = filter_sizes[3] if spec.multiplier is None else spec.multiplier
        self.multiplied = spec.multiplier != 1
        self.rank = 5 if self.multiplied else 4
        last = spec.data_format == "NHWC"
        self.row, self.col = (1, 2) if last else (self.rank - 2, self.rank - 1)
        self.multiplier_axis = 4 if last else 2

    def input(self, x: tf.Tensor) -> tf.Tensor:
        """An image of the input's channels, ready to be multiplied with taps."""
        return tf.expand_dims(x, self.multiplier_axis) if self.multiplied else x

    def output(self, dy: tf.Tensor) -> tf.Tensor:
        """An image of the output's channels, its channel dimension split in [C, M]."""
        if not self.multiplied:
            return dy
        shape = tf.unstack(tf.shape(dy))
        axis = self.multiplier_axis - 1
        return tf.reshape(dy, tf.stack([*shape[:axis], self.channels, self.multiplier, *shape[axis + 1 :]]))

    def merge(self, y: tf.Tensor) -> tf.Tensor:
        """The inverse of `output`."""
        if not self.multiplied:
            return y
        shape = tf.unstack(tf.shape(y))
        axis = self.multiplier_axis - 1
        merged = tf.reshape(y, tf.stack([*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]]))
        return tf.ensure_shape(merged, self.spec.output_shape)

    def weights(self, w: tf.Tensor) -> list[list[tf.Tensor]]:
        """The filter as taps, each of a shape that broadcasts against an image."""
        if not self.multiplied:
            w = tf.squeeze(w, 3)
        if self.spec.data_format == "NCHW":
            w = w[..., tf.newaxis, tf.newaxis]
        rows, cols = self.spec.rows.taps, self.spec.cols.taps
        return [raw.Unpack(value=row, num=cols, axis=0) for row in raw.Unpack(value=w, num=rows, axis=0)]

    def cut(self, image: tf.Tensor, rows: tuple[Any, Any, int], cols: tuple[Any, Any, int]) -> tf.Tensor:
        """The samples begin, begin + step, ... (end exclusive) of rows and cols, everything of the other dimensions."""
        begin, end, step = [0] * self.rank, [0] * self.rank, [1] * self.rank
        (begin[self.row], end[self.row], step[self.row]) = rows
        (begin[self.col], end[self.col], step[self.col]) = cols
        whole = sum(1 << axis for axis in range(self.rank) if axis not in (self.row, self.col))
        return raw.StridedSlice(input=image, begin=begin, end=end, strides=step, begin_mask=whole, end_mask=whole)

    def piece(self, image: tf.Tensor, rows: Run, cols: Run) -> tf.Tensor:
        """The piece of an image, and the padding around it, that two runs want: most often the image as it is."""
        if rows.piece is None and cols.piece is None:
            return image
        pads = [[0, 0] for _ in range(self.rank)]
        pads[self.row], pads[self.col] = list(rows.pads), list(cols.pads)
        top, bottom = rows.piece or (0, image.shape[self.row])
        left, right = cols.piece or (0, image.shape[self.col])
        return raw.Pad(input=self.cut(image, (top, bottom, 1), (left, right, 1)), paddings=pads)

    def zeros(self, image: tf.Tensor, height: Any, width: Any) -> tf.Tensor:
        """An image of zeros with the channels of the output, the batch and dtype of this one."""
        batch = tf.shape(image)[0] if self.spec.batch is None else self.spec.batch
        channels = [self.channels, self.multiplier] if self.multiplied else [self.channels]
        middle = [height, width]
        sizes = [batch, *middle, *channels] if self.spec.data_format == "NHWC" else [batch, *channels, *middle]
        return tf.zeros(tf.stack(sizes), image.dtype)


def total(terms: list[tf.Tensor]) -> tf.Tensor:
    """The sum of one or more tensors of one shape, in their order."""
    return terms[0] if len(terms) == 1 else raw.AddN(inputs=terms)


def step_range(begin: int, count: int, step: int) -> tuple[int, int, int]:
    """The slice of `count` samples from `begin`, `step` apart."""
    return begin, begin + step * (count - 1) + 1, step
