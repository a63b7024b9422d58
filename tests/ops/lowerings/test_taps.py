"""Taps where their code differs from that of an everyday case: what each formulation is for, and its edges."""

import itertools
import unittest
from unittest import mock

import tensorflow as tf
from depthwise.conformance.case import parse
from depthwise.conformance.data import Problem
from depthwise.ops import depthwise_conv2d
from depthwise.ops.lowerings.taps import correlate, microbatches, unpadded
from depthwise.ops.spec import canonicalize
from parameterized import parameterized
from results import FIRST, check, results


class TapsTest(unittest.TestCase):
    @parameterized.expand(
        itertools.product(
            (
                "in=2x11x19x3 filter=3x4x1 data=special",  # more columns than terms of a sum, and no multiple of them
                "in=2x24x8x2 filter=4x3x2 strides=2x1 dilations=1x2 format=NCHW data=special",
                "in=1x6x33x2 filter=2x7x1 strides=3x2 padding=0,5,7,1 data=special",
                "in=2x12x17x2 filter=9x8x1 strides=1x2 data=special",  # too large to write out
                "in=3x9x1x4 filter=1x3x2 data=special",  # what is not finite lies beside the padding
                "in=2x4x4x3 filter=3x5x1 padding=VALID data=special",  # no output
            ),
            ("unknown", "unknown_xla"),
        )
    )
    def test_sizes_of_images_that_are_known_late(self, notation, mode):
        check(self, notation, "taps", mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x12x11x3 filter=9x8x1 data=special",
                "in=1x12x17x2 filter=11x13x2 strides=2x1 dilations=1x2",
                "in=2x9x8x3 filter=13x7x1 strides=1x2 dilations=3x1 data=special",
                "in=1x30x9x2 filter=9x9x1 strides=3x3 padding=VALID format=NCHW",
                "in=1x6x6x2 filter=15x9x1 padding=11,3,0,7 data=special",
                "in=2x7x40x2 filter=1x67x1",
                "in=2x25x5x2 filter=33x2x1 data=special",
                "in=1x9x8x2 filter=10x9x2 strides=1x2 format=NCHW data=special",
            ),
            ("xla", "unknown"),
        )
    )
    def test_filters_too_large_to_write_out(self, notation, mode):
        check(self, notation, "taps", mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x14x13x3 filter=9x11x1 strides=2x2 data=special",
                "in=1x9x12x2 filter=10x9x2 strides=2x3 dilations=3x1 padding=9,4,0,8",
                "in=2x16x16x5 filter=16x16x1 strides=16x16 format=NCHW data=special",
                "in=1x14x13x3 filter=9x9x1 strides=1x2 padding=VALID dtype=bfloat16",
            ),
            ("xla", "eager"),
        )
    )
    def test_filters_that_are_large_but_not_in_one_phase_of_the_stride(self, notation, mode):
        check(self, notation, "taps", mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x7x5x3 filter=13x9x1 data=special",  # just large enough
                "in=2x6x5x2 filter=13x10x2 format=NCHW data=special",
                "in=3x7x6x2 filter=17x19x1 strides=2x3 padding=7,6,8,9 data=special",
                "in=2x9x8x256 filter=17x16x1 dtype=float64",
                "in=0x4x5x2 filter=9x9x1",
                "in=2x7x5x2 filter=12x9x1",  # a row too few at the beginning
                "in=1x6x6x2 filter=11x11x1 padding=6,4,5,5 data=special",  # and at the end
            ),
            ("xla",),
        )
    )
    def test_filters_that_cover_the_image_from_everywhere(self, notation, mode):
        """With more places than are written out, and with fewer."""
        check(self, notation, "taps", mode)

    @parameterized.expand(
        [
            ("in=1x6x7x256 filter=5x4x1 data=special", "xla"),
            ("in=2x7x5x128 filter=5x5x2 strides=2x1 dilations=1x2 data=special", "graph"),
            ("in=1x6x5x64 filter=6x5x2 dtype=float64", "xla"),
            ("in=1x6x7x256 filter=9x9x1 data=special", "xla"),
            ("in=1x5x6x64 filter=7x11x2 strides=2x1 dtype=float64", "xla"),
            ("in=1x5x6x256 filter=5x5x1 dtype=int32", "eager"),
        ]
    )
    def test_columns_a_cache_line_apart(self, notation, mode):
        """Images whose columns lie a multiple of 1024 bytes apart, and filters that taps pad them for."""
        check(self, notation, "taps", mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x5x33x2 filter=3x3x2 format=NCHW data=special",
                "in=1x9x38x5 filter=3x4x1 strides=2x1 dilations=1x3 format=NCHW data=special",
                "in=3x4x32x3 filter=1x3x1 padding=0,0,2,0 format=NCHW data=special",
                "in=2x3x33x5 filter=2x2x1 dilations=7x1 format=NCHW dtype=float64",  # windows three planes high
                "in=1x3x33x3 filter=3x3x1 format=NCHW",  # a plane too few
                "in=2x9x11x4 filter=3x3x1 strides=2x2 padding=VALID format=NCHW data=special",
                "in=1x8x12x6 filter=4x5x1 strides=3x2 dilations=2x1 padding=3,0,1,5 format=NCHW data=special",
                "in=2x9x9x3 filter=5x3x1 strides=4x2 dilations=3x1 format=NCHW data=special",  # begins amid the phases
                "in=2x7x9x3 filter=2x7x1 strides=1x3 format=NCHW dtype=bfloat16",
            ),
            ("xla", "eager"),
        )
    )
    def test_planes_that_lie_end_to_end(self, notation, mode):
        """NCHW, wide or strided, but for one."""
        check(self, notation, "taps", mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x1x8x3 filter=9x9x1",
                "in=1x16x40x2 filter=16x16x2 strides=16x16",
                "in=1x2x4x2 filter=16x16x1 strides=2x2 format=NCHW",
                "in=2x8x1x3 filter=9x9x1",  # the same the other way round
            ),
            ("unknown_width", "unknown_batch_width", "unknown_height", "unknown_width_xla"),
        )
    )
    def test_large_filters_of_images_of_a_row(self, notation, mode):
        """One row of outputs, and TensorFlow does not see that it is one."""
        check(self, notation, "taps", mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=3x6x7x5 filter=5x5x1 data=special",
                "in=1x11x9x3 filter=4x6x1 data=special",
                "in=2x9x5x4 filter=6x3x1 padding=5,0,0,2 data=special",
                "in=2x9x5x3 filter=3x6x1 padding=0,2,5,0 dtype=float64",
                "in=4x12x6x2 filter=4x4x1 dilations=3x5 data=special",  # taps lie past the next row
                "in=1x7x8x3 filter=4x9x1",  # one row amid the padded ones
                "in=1x6x8x3 filter=4x9x1",  # none
                "in=1x5x8x3 filter=4x9x1",  # too few
                "in=2x6x6x3 filter=5x5x1 dtype=bfloat16",
            ),
            ("xla", "eager"),
        )
    )
    def test_rows_that_lie_end_to_end(self, notation, mode):
        """NHWC, of images that are taken to be large."""
        with mock.patch.multiple(unpadded, LEAST_BYTES=0, LEAST_BYTES_QUICKER=0):
            check(self, notation, "taps", mode)

    @parameterized.expand(
        [
            ("in=2x7x9x32 filter=3x3x1 format=NCHW", "xla"),
            ("in=2x7x9x32 filter=3x3x1 format=NCHW data=special", "xla"),
            ("in=3x6x5x24 filter=3x2x2 strides=2x1 format=NCHW dtype=float64", "unknown"),
            ("in=2x9x8x48 filter=10x7x1 dilations=1x2 format=NCHW data=special", "xla"),
        ]
    )
    def test_blocks_of_channels(self, notation, mode):
        """NCHW, and more channels than are transposed together."""
        check(self, notation, "taps", mode)

    @parameterized.expand(
        [
            ("in=4x9x9x3 filter=5x5x1", "graph", 1),
            ("in=6x7x16x5 filter=5x4x2 strides=1x2 dilations=2x1", "xla", 6000),
            ("in=3x4x5x3 filter=4x6x1 padding=5,0,1,2", "eager", 1),
            ("in=2x12x9x3 filter=9x8x2", "graph", 1),  # too large to write out
            ("in=4x5x17x24 filter=3x5x1 format=NCHW", "graph", 8000),  # in blocks of channels
            ("in=3x9x7x4 filter=4x3x2 strides=2x2 format=NCHW dtype=bfloat16", "graph", 1),
            ("in=2x8x9x3 filter=5x5x1 dtype=float64", "xla", 1),
            ("in=2x9x8x9 filter=5x5x1 data=special", "graph", 1),
        ]
    )
    def test_microbatches(self, notation, mode, most_sums):
        """Of one image, and of two of four and three of six."""
        with (
            mock.patch.object(microbatches, "MOST_SUMS", most_sums),
            mock.patch.object(correlate, "filter_grad", wraps=correlate.filter_grad) as of_a_microbatch,
        ):
            check(self, notation, "island", mode)
        batch = parse(notation).input_shape[0]
        images = {args.args[0].batch for args in of_a_microbatch.call_args_list}
        self.assertEqual(images, {{1: 1, 6000: 3, 8000: 2}[most_sums]})
        self.assertGreater(batch, max(images))

    @parameterized.expand(
        [
            ("in=2x12x11x4 filter=9x8x1 data=special", "xla", 1),  # two rows a turn
            ("in=1x12x19x2 filter=11x13x2 strides=2x1 dilations=1x2", "xla", 1300),  # four, four and three
            ("in=3x9x8x2 filter=13x7x1 strides=1x2 dilations=3x1 format=NCHW data=special", "eager", 1),
            ("in=1x6x7x2 filter=15x9x1 padding=11,3,0,7 dtype=float64", "graph", 1500),
        ]
    )
    def test_filter_gradients_too_large_to_sum_at_once(self, notation, mode, most_sums):
        with (
            mock.patch.multiple(correlate, MOST_SUMS_AT_ONCE=most_sums, MOST_SUMS_A_TURN=most_sums),
            mock.patch.object(correlate, "_by_turns", wraps=correlate._by_turns) as by_turns,
        ):
            check(self, notation, "taps", mode)
        self.assertTrue(by_turns.called)

    @parameterized.expand(
        [
            ("small", 8, 8, [2, 56, 56, 512], 8),
            ("all", 13, 13, [8, 7, 7, 384], 13),
            ("half", 13, 13, [8, 7, 7, 512], 7),
            ("as_many_in_each_turn", 29, 29, [8, 28, 28, 64], 6),
            ("two_at_least", 31, 31, [8, 112, 112, 256], 2),
            ("one_there_is", 1, 65, [32, 112, 112, 256], 1),
            ("unknown_batch", 13, 13, [None, 7, 7, 1024], 2),
            ("one_of_an_unknown_batch", 1, 65, [None, 7, 7, 1024], 1),
        ]
    )
    def test_tap_rows_that_are_summed_at_once(self, _, height, width, shape, expected):
        with tf.Graph().as_default():
            x, w = (tf.compat.v1.placeholder(tf.float32, sizes) for sizes in (shape, [height, width, shape[-1], 1]))
            spec = canonicalize(x, w, [1, 1, 1, 1], "SAME", None, None)[0]
        self.assertEqual(correlate._tap_rows_at_once(spec), expected)

    @parameterized.expand([(16, None), (20, 10), (31, None), (32, 16), (33, 11), (34, None)])
    def test_batches_that_cannot_be_divided_well_are_not(self, batch, expected):
        """A microbatch could have 16 images, and could here have one, or two, of 31 and 34."""
        x, w = tf.zeros([batch, 7, 7, 32]), tf.zeros([7, 7, 32, 1])
        spec = canonicalize(x, w, [1, 1, 1, 1], "SAME", None, None)[0]
        with mock.patch.object(microbatches, "MOST_SUMS", 16 * 7 * 7 * 7 * 32):
            self.assertEqual(microbatches._images(spec), expected)

    @parameterized.expand(
        [
            ("in=2x7x6x3 filter=6x6x2 data=special", "xla"),
            ("in=1x8x9x2 filter=3x3x11 strides=2x1 format=NCHW data=special", "xla"),
            ("in=1x9x8x3 filter=5x7x2 strides=2x2 dilations=1x2 dtype=float64", "graph"),
            ("in=2x7x6x2 filter=9x9x3 format=NCHW data=special", "xla"),
            ("in=1x6x5x2 filter=4x5x4 dtype=complex64", "eager"),
        ]
    )
    def test_many_taps_for_an_input_gradient_to_sum(self, notation, mode):
        """Taps times outputs of a channel beyond what is summed without a stop in memory."""
        check(self, notation, "taps", mode)

    @parameterized.expand(
        itertools.product(
            (
                "in=2x7x5x3 filter=13x9x2",  # covers the image
                "in=2x6x5x2 filter=13x10x1 format=NCHW",
                "in=2x12x11x3 filter=9x8x1 strides=2x1",
                "in=2x12x11x3 filter=5x6x1",
                "in=2x12x11x3 filter=3x3x2 strides=2x2 format=NCHW",
            ),
            ("xla", "graph"),
        )
    )
    def test_a_batch_that_is_known_late(self, notation, mode):
        """Alone: all other sizes are known."""

        def of_any_batch(x, *arguments, **more):
            x = tf.raw_ops.PlaceholderWithDefault(input=x, shape=[None, *x.shape[1:]])
            return depthwise_conv2d(x, *arguments, **more)

        check(self, notation, "taps", mode, of_any_batch)

    def test_the_same_bits_every_time_of_a_large_graph(self):
        """Where the executor has time to free buffers in another order: by AddN, 12 input gradients were 6 to 12."""
        problem = Problem(parse("in=2x30x37x500 filter=4x4x1"))
        found = [results(problem, "taps", "graph") for _ in range(5)]
        for name in FIRST:
            self.assertEqual(len({tensors[name].numpy().tobytes() for tensors in found}), 1, name)
