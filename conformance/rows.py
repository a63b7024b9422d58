"""Named rows: the configurations of TensorFlow's and Keras's own tests, and those that are known to go wrong."""

from __future__ import annotations

from depthwise.conformance.case import Case

_ONE = (1, 1)

# tensorflow/python/kernel_tests/nn_ops/depthwise_conv_op_base.py and compiler/tests/depthwise_conv_op_test.py:
# input NHWC, (taps, taps, multiplier), strides, dilations, padding.
_TENSORFLOW: tuple[Case, ...] = (
    # Forward.
    Case((4, 5, 5, 48), (1, 1, 2)),
    Case((4, 8, 8, 84), (1, 3, 1)),
    Case((4, 17, 17, 48), (3, 1, 4)),
    Case((4, 9, 27, 8), (3, 3, 1)),
    Case((4, 31, 31, 7), (3, 3, 1)),
    Case((4, 35, 35, 2), (5, 5, 1)),
    Case((4, 147, 147, 2), (3, 3, 8), (3, 3), padding="VALID"),
    Case((3, 299, 299, 3), (3, 2, 8), (2, 2)),
    Case((5, 183, 183, 1), (5, 5, 2), (2, 2)),
    Case((5, 183, 183, 1), (5, 5, 2), _ONE, (2, 2)),
    Case((5, 41, 35, 2), (4, 7, 2), _ONE, (3, 2), "VALID"),
    # Forward with explicit padding.
    Case((4, 5, 5, 48), (1, 1, 2), _ONE, _ONE, ((1, 2), (3, 4))),
    Case((4, 1, 1, 3), (3, 3, 2), _ONE, _ONE, ((10, 20), (15, 25))),
    Case((4, 9, 27, 8), (3, 3, 1), _ONE, _ONE, ((3, 4), (4, 2))),
    Case((3, 299, 299, 3), (3, 2, 8), (2, 2), _ONE, ((1, 2), (3, 5))),
    Case((5, 183, 183, 1), (5, 5, 2), (3, 3), _ONE, ((3, 2), (1, 0))),
    Case((5, 29, 31, 1), (5, 4, 2), _ONE, (2, 3), ((3, 2), (1, 0))),
    Case((4, 5, 5, 48), (3, 3, 1), _ONE, _ONE, ((0, 2), (0, 2))),
    Case((1, 8, 7, 2), (8, 7, 1), _ONE, _ONE, ((0, 7), (3, 3))),
    Case((2, 4, 3, 2), (3, 2, 1), _ONE, _ONE, ((2, 0), (1, 0))),
    # Gradients.
    Case((2, 5, 8, 1), (4, 4, 2)),
    Case((4, 5, 5, 1), (2, 2, 2), (2, 2), padding="VALID"),
    Case((2, 4, 4, 2), (3, 1, 2)),
    Case((1, 15, 15, 2), (1, 3, 1)),
    Case((2, 15, 16, 1), (3, 3, 2), (3, 3), padding="VALID"),
    Case((2, 5, 8, 1), (4, 3, 2), _ONE, (1, 2)),
    Case((1, 3, 1, 2), (2, 1, 1)),
    Case((2, 2, 3, 1), (2, 2, 1)),
    # Gradients with explicit padding.
    Case((2, 5, 8, 1), (4, 4, 2), _ONE, _ONE, ((0, 1), (2, 3))),
    Case((4, 5, 5, 1), (2, 2, 2), (2, 2), _ONE, ((3, 1), (5, 0))),
    Case((2, 4, 4, 2), (3, 1, 2), _ONE, _ONE, ((4, 1), (3, 4))),
    Case((1, 15, 15, 2), (1, 3, 1), _ONE, _ONE, ((3, 0), (2, 8))),
    Case((2, 15, 16, 1), (3, 3, 2), (3, 3), _ONE, ((0, 0), (10, 0))),
    Case((2, 5, 8, 1), (3, 4, 2), _ONE, (2, 1), ((3, 1), (2, 3))),
    # XLA, dilated; strides with dilations among them.
    Case((4, 36, 36, 2), (5, 5, 1), (2, 2), (4, 4)),
    Case((4, 148, 148, 2), (4, 4, 8), (2, 2), (2, 2)),
    Case((3, 300, 300, 3), (2, 2, 8), _ONE, (4, 4), "VALID"),
)

# keras/src/layers/convolutional/depthwise_conv_test.py.
_KERAS: tuple[Case, ...] = tuple(
    Case((2, 5, 5, 3), (2, 2, multiplier), strides, dilations, padding, data_format)
    for multiplier, strides, dilations, padding in (
        (5, _ONE, _ONE, "VALID"),
        (6, _ONE, _ONE, "SAME"),
        (6, (2, 2), _ONE, "SAME"),
        (5, _ONE, (2, 2), "VALID"),
        (2, (1, 2), _ONE, "VALID"),
        (2, _ONE, (2, 1), "SAME"),
    )
    for data_format in ("NHWC", "NCHW")
)

TENSORFLOW_AND_KERAS = (*_TENSORFLOW, *_KERAS)

# What implementations are known to get wrong.
KNOWN_TROUBLE: tuple[Case, ...] = (
    Case((1, 9, 9, 2), (3, 3, 1), (2, 2), (2, 2)),  # space-to-batch before the strides
    Case((1, 9, 9, 2), (3, 3, 1), (2, 2), (2, 2), "VALID"),
    Case((1, 8, 7, 2), (2, 4, 2), (1, 2)),  # even taps: SAME pads more after than before
    Case((1, 8, 7, 2), (4, 2, 2), (3, 1), format="NCHW"),
    Case((1, 5, 5, 1), (5, 5, 1), padding="VALID"),  # a filter as large as the image
    Case((1, 3, 3, 2), (7, 7, 1)),  # a filter larger than the image
    Case((1, 3, 3, 2), (5, 5, 2), (2, 2)),
    Case((1, 7, 7, 1), (1, 1, 1), (3, 3)),  # strides that skip input: its gradient has zeros
    Case((1, 10, 10, 1), (2, 2, 3), (4, 4)),
    Case((2, 1, 9, 2), (1, 5, 1), _ONE, (1, 3)),  # one row
    Case((2, 9, 1, 2), (5, 1, 1), _ONE, (3, 1), format="NCHW"),
    Case((1, 4, 4, 3), (2, 2, 2), _ONE, _ONE, ((5, 0), (0, 6))),  # windows that lie in padding altogether
    Case((1, 6, 6, 1), (3, 3, 1), (2, 1), _ONE, ((0, 1), (1, 0))),
    Case((2, 4, 1, 1), (1, 2, 2), (1, 2)),  # one channel, one column of output: oneDNN leaves rows unwritten
    Case((1, 12, 12, 17), (3, 3, 1)),  # channels that fill no vector
    Case((8, 6, 6, 1), (3, 3, 16)),  # many outputs of one channel
    Case((3, 8, 8, 4), (3, 3, 2), data="special"),
    Case((2, 9, 8, 2), (3, 2, 2), (2, 2), data="special"),
    Case((2, 8, 9, 3), (3, 3, 1), _ONE, (2, 2), data="special"),
    Case((2, 7, 8, 4), (3, 3, 2), padding="VALID", data="special-filter"),
    Case((2, 6, 7, 4), (3, 2, 1), data="special-filter"),
    Case((2, 9, 8, 3), (2, 3, 2), (2, 2), data="special-filter"),
    Case((1, 7, 9, 4), (3, 3, 1), _ONE, (2, 2), data="special-filter"),
    Case((16, 24, 24, 2), (3, 3, 1)),  # thousands of terms in the filter's gradient
)

# Sizes that no draw reaches, past which implementations take another path: a loop instead of taps written out, a
# kernel for small filters alone, a buffer with room for so many channels.
LARGE: tuple[Case, ...] = (
    Case((1, 12, 11, 3), (9, 9, 1)),
    Case((2, 17, 14, 2), (11, 8, 2), (2, 2), padding="VALID"),
    Case((1, 25, 9, 2), (9, 8, 1), _ONE, (2, 1), data="special"),
    Case((1, 3, 40, 4), (1, 17, 1)),
    Case((1, 70, 3, 2), (67, 2, 1), format="NCHW"),
    Case((2, 6, 7, 2), (13, 13, 1)),  # every window holds the whole image
    Case((1, 7, 6, 128), (3, 3, 1)),
    Case((1, 6, 7, 257), (5, 3, 1)),
    Case((1, 6, 7, 33), (3, 3, 4), format="NCHW"),
    Case((2, 4, 35, 3), (3, 3, 2), format="NCHW", data="special"),
    Case((1, 20, 31, 3), (3, 3, 1), _ONE, (6, 12)),
    Case((1, 33, 33, 2), (3, 3, 1), _ONE, (18, 18)),
    Case((1, 23, 19, 2), (5, 5, 1), (5, 5)),
    Case((1, 26, 11, 2), (3, 4, 1), (7, 7), (5, 2)),
    Case((2, 5, 4, 2), (3, 2, 1), (70, 1), (65, 2), ((130, 75), (1, 0))),  # windows and taps outside the image
    Case((33, 5, 4, 2), (3, 3, 1)),
    Case((2, 30, 37, 500), (4, 4, 1)),  # over four mebibytes
)

# For images of which one size is known and another isn't: what is decided by the one must not rest on the other.
PARTLY_UNKNOWN: tuple[Case, ...] = (
    Case((2, 9, 14, 2), (9, 8, 1), padding="VALID"),  # one row of outputs under many taps
    Case((2, 7, 4, 3), (4, 3, 2), (2, 2)),
    Case((1, 5, 8, 2), (3, 2, 1), _ONE, (2, 3), format="NCHW"),
    Case((2, 3, 6, 2), (3, 4, 2), (1, 2), _ONE, ((0, 2), (1, 0))),
)

# Results without elements, and gradients that are sums of no terms: zeros, not uninitialised memory.
EMPTY: tuple[Case, ...] = (
    Case((0, 5, 5, 3), (3, 3, 2)),
    Case((2, 0, 5, 3), (3, 3, 2)),
    Case((2, 5, 0, 3), (3, 3, 2)),
    Case((2, 5, 5, 0), (3, 3, 2)),
    Case((2, 5, 5, 3), (3, 3, 0)),
    Case((2, 2, 2, 3), (3, 3, 2), padding="VALID"),
    Case((2, 5, 2, 3), (3, 3, 2), padding="VALID"),
    Case((0, 6, 6, 2), (3, 3, 2), (2, 2), padding="VALID"),
    Case((0, 6, 6, 2), (3, 3, 2), _ONE, (2, 2)),
    Case((2, 4, 4, 2), (3, 3, 2), _ONE, (2, 2), "VALID"),
    Case((2, 0, 4, 2), (3, 3, 2), _ONE, _ONE, ((2, 2), (1, 1))),
    Case((2, 1, 1, 2), (3, 3, 2), (2, 2), _ONE, ((0, 1), (0, 1))),
)
