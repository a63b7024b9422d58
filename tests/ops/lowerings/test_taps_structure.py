"""What XLA makes of the taps lowering: few fusions, and nothing among them that would stop fusion or vectorisation.

Times are not tested, but the structure that they come from is, in the optimised HLO for the CPU and in the HLO that is
handed to XLA:GPU, which needs no GPU.
"""

from __future__ import annotations

import math
import re
import unittest
from itertools import product
from unittest import mock

import tensorflow as tf
from depthwise.ops import depthwise_conv2d
from depthwise.ops.lowerings import BY_NAME
from depthwise.ops.lowerings.taps import Taps, correlate, microbatches
from depthwise.ops.spec import canonicalize
from parameterized import parameterized

from benchmarks.hlo import read

BATCH, SIZE, CHANNELS = 2, 20, 16
IMAGE = BATCH * SIZE * SIZE * CHANNELS
CONTRACTIONS = ("output", "input_grad", "filter_grad")
FORBIDDEN = {"convolution", "custom-call", "gather", "while", "dynamic-slice"}
PADS = {"NHWC": {3: 0, 5: 1, 7: 1}, "NCHW": {3: 1, 5: 1, 7: 1}}
"""Most pads of a whole image in output and input gradient, by kernel size: a fusion each, before the stencil's one."""
FILTER_GRAD_PASSES = {3: 3, 5: 3, 7: 5}
"""Partial sums and their reduction, once for up to five tap columns; and the order of the result."""
XLA_SPLITS_FILTER_GRADS = tf.__version__.startswith(("2.18", "2.19"))
WHY_SPLIT = "XLA of TensorFlow before 2.20 takes more passes for a filter gradient"

INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?\S+ = (?:\w+\[([\d,]*)\]\S*|\(.*?\)) ([\w-]+)\(", re.MULTILINE)
# Images have four dimensions, or three where their rows are in one. Partial sums of the filter gradient have five;
# their pad is fused.
PAD = re.compile(r" = \w+\[(\d+,\d+,\d+(?:,\d+)?)\]\S* pad\(.*?padding=([\d_x]+)")
NO_PAD = set("0_x")


def inputs(kernel, stride, data_format):
    """Input, filter and output gradient of zeros: only their shapes matter."""

    def image(size):
        shape = [BATCH, size, size, CHANNELS] if data_format == "NHWC" else [BATCH, CHANNELS, size, size]
        return tf.zeros(shape)

    return image(SIZE), tf.zeros([kernel, kernel, CHANNELS, 1]), image(SIZE // stride)


def strides_of(stride, data_format):
    return [1, stride, stride, 1] if data_format == "NHWC" else [1, 1, stride, stride]


def taps(contraction, stride, data_format, lowering=BY_NAME["taps"]):
    """(x, w, dy) -> one contraction by the lowering under test."""

    def compute(x, w, dy):
        spec = canonicalize(x, w, strides_of(stride, data_format), "SAME", data_format, None)[0]
        if contraction == "output":
            return lowering.output(spec, x, w)
        if contraction == "input_grad":
            return lowering.input_grad(spec, w, dy, tf.shape(x))
        return lowering.filter_grad(spec, x, dy, tf.shape(w))

    return compute


def stock(contraction):
    """(x, w, dy) -> one contraction by TensorFlow's op."""

    def compute(x, w, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = tf.nn.depthwise_conv2d(x, w, [1, 1, 1, 1], "SAME")
        if contraction == "output":
            return y
        return tape.gradient(y, x if contraction == "input_grad" else w, dy)

    return compute


def padded_first(x, w, dy):
    """(x, w, dy) -> output, the plain way: pad the whole input, then add up the taps."""
    k = w.shape[0]
    x = tf.pad(x, [[0, 0], [k // 2, k // 2], [k // 2, k // 2], [0, 0]])
    return tf.add_n([x[:, i : i + SIZE, j : j + SIZE] * w[i, j, :, 0] for i, j in product(range(k), repeat=2)])


def hlo(function, tensors, platform, signature=None):
    """The optimised HLO for the CPU, or the HLO that XLA:GPU begins with."""
    compiled = tf.function(function, jit_compile=True, autograph=False, input_signature=signature)
    ir = compiled.experimental_get_compiler_ir(*tensors)
    return ir(stage="optimized_hlo") if platform == "CPU" else ir(stage="hlo", platform_name="GPU")


def flaws(text, pads=0, image=IMAGE):
    """What in an HLO module would make it slow, in words; so many pads of a whole image are allowed."""
    opcodes = {opcode for _, opcode in INSTRUCTION.findall(text)}
    assert opcodes, "no instruction was recognised"
    padded = [
        math.prod(int(n) for n in dims.split(",")) for dims, amounts in PAD.findall(text) if set(amounts) - NO_PAD
    ]
    whole = [f"pad to {size} elements" for size in padded if size >= image]
    return sorted(opcodes & FORBIDDEN) + whole[pads:]


def pads_allowed(kernel, data_format, contraction):
    if contraction == "filter_grad":
        return 2 if data_format == "NCHW" else 0  # input and output gradient, transposed into a buffer of their own
    return PADS[data_format][kernel]


def entry(text):
    """The text of the entry computation of optimised HLO."""
    return text[text.index("\nENTRY") :]


def passes(text):
    """How many passes over memory optimised HLO makes, one after the other.

    In TensorFlow 2.21 each is a fusion; before, XLA left single instructions as they are, and ran fusions on several
    threads by a call.
    """
    return sum(1 for _ in read(text).passes())


def made_lines(text, samples):
    """What makes tensors of one dimension and so many samples."""
    return [op for dims, op in INSTRUCTION.findall(text) if dims == str(samples)]


def computations(text):
    """The text of each computation."""
    return re.split(r"^(?=\S.*\{$)", text, flags=re.MULTILINE)


def multiplications(text):
    """How many products of images a text has."""
    return len(re.findall(r" = f32\[\d+,.* multiply\(", text))


class TapsStructureTest(unittest.TestCase):
    @parameterized.expand(
        [*product((3, 5, 7), (1,), ("NHWC", "NCHW"), CONTRACTIONS), *product((3,), (2,), ("NHWC",), CONTRACTIONS)]
    )
    def test_what_the_gpu_compiler_is_given(self, kernel, stride, data_format, contraction):
        text = hlo(taps(contraction, stride, data_format), inputs(kernel, stride, data_format), "GPU")
        self.assertEqual(flaws(text, pads_allowed(kernel, data_format, contraction)), [])

    @parameterized.expand(
        [
            *product((3, 5, 7), (1,), ("NHWC",), CONTRACTIONS),
            *product((3,), (2,), ("NHWC",), CONTRACTIONS),
            *product((3,), (1,), ("NCHW",), CONTRACTIONS),
        ]
    )
    def test_what_runs_on_the_cpu(self, kernel, stride, data_format, contraction):
        if contraction == "filter_grad" and XLA_SPLITS_FILTER_GRADS:
            self.skipTest(WHY_SPLIT)
        text = hlo(taps(contraction, stride, data_format), inputs(kernel, stride, data_format), "CPU")
        self.assertEqual(flaws(text, pads_allowed(kernel, data_format, contraction)), [])
        pads = pads_allowed(kernel, data_format, contraction)
        most = pads + (FILTER_GRAD_PASSES[kernel] if contraction == "filter_grad" else 1)
        if contraction == "input_grad" and stride > 1:
            most += 2  # dy is padded, a fraction of the input's size; and the filter is laid out
        self.assertLessEqual(passes(text), most)
        self.assertGreaterEqual(passes(text), 1)

    @parameterized.expand(
        [
            ((8, 56, 56, 128), 3, 4),  # 14 terms of 4 columns, 2048 bytes apart: the 16 lines of two sets hold them
            ((8, 56, 56, 256), 3, 5),  # of 4 columns they would be 4096 apart, in one set, which holds 8
            ((8, 28, 28, 512), 3, 3),
            ((8, 28, 28, 512), 5, 3),
        ]
    )
    def test_terms_of_a_filter_gradient_fit_into_the_cache(self, shape, kernel, width):
        """How many columns a term has, told from the partial sums: [batch, rows, taps * width, channels]."""
        x, w = tf.TensorSpec(shape), tf.TensorSpec([kernel, kernel, shape[-1], 1])
        alone = taps("filter_grad", 1, "NHWC", Taps())  # in no function of its own: its nodes are in sight
        traced = tf.function(alone, autograph=False).get_concrete_function(x, w, x)
        partial = [op.inputs[0].shape for op in traced.graph.get_operations() if op.type == "AvgPool"]
        self.assertEqual([dims[2] for dims in partial], [kernel * kernel * width])

    @parameterized.expand(product((3, 5, 7), ("NHWC", "NCHW")))
    @unittest.skipIf(XLA_SPLITS_FILTER_GRADS, WHY_SPLIT)
    def test_a_filter_gradient_of_sizes_that_are_known_late_is_formed_alike(self, kernel, data_format):
        """Partial sums, a window of which is added up at a time; before it a pad, and NCHW images laid out."""
        x, w, dy = inputs(kernel, 1, data_format)
        image = [None if size == SIZE else size for size in x.shape]
        signature = [tf.TensorSpec(shape) for shape in (image, w.shape, image)]
        pads = 1 + pads_allowed(kernel, data_format, "filter_grad")
        text = {}
        for platform in ("CPU", "GPU"):
            text[platform] = hlo(taps("filter_grad", 1, data_format), (x, w, dy), platform, signature)
            self.assertEqual(flaws(text[platform], pads), [])
            self.assertTrue(" reduce-window(" in text[platform])
        self.assertLessEqual(passes(text["CPU"]), FILTER_GRAD_PASSES[kernel] + pads)

    @parameterized.expand([("output", 1), ("input_grad", 1), ("input_grad", 2)])
    def test_planes_are_read_as_a_line_that_lies_in_memory(self, contraction, stride):
        """After another op, whose result is written once: to compute the place of each sample is scalar code."""
        x, dy = tf.zeros([BATCH, CHANNELS, 40, 40]), tf.zeros([BATCH, CHANNELS, 40 // stride, 40 // stride])
        compute = taps(contraction, stride, "NCHW")

        def after_another(x, w, dy):
            scale = tf.range(float(CHANNELS))[:, tf.newaxis, tf.newaxis]
            return compute(tf.nn.relu(x * scale), w, tf.nn.relu(dy * scale))

        text = hlo(after_another, (x, tf.zeros([3, 3, CHANNELS, 1]), dy), "CPU")
        (stencil,) = (part for part in computations(text) if multiplications(part) > 3)
        # Of a strided convolution, the rows are as many as those of the output gradient.
        samples = math.prod(x.shape) // stride
        self.assertEqual(made_lines(stencil, samples), ["parameter"])
        self.assertEqual(made_lines(entry(text), samples), ["bitcast"])
        self.assertLessEqual(passes(text), 5)  # the other op, two edges, the filter for each plane, the stencil
        self.assertEqual(flaws(hlo(after_another, (x, tf.zeros([3, 3, CHANNELS, 1]), dy), "GPU")), [])

    @parameterized.expand([("output",), ("input_grad",)])
    def test_arguments_are_read_where_they_are(self, contraction):
        """Without a copy, unless the function is called within another: then they are what that one computes."""
        x = tf.zeros([BATCH, CHANNELS, 40, 40])
        tensors = x, tf.zeros([3, 3, CHANNELS, 1]), x
        compute = taps(contraction, 1, "NCHW")
        self.assertEqual(passes(hlo(compute, tensors, "CPU")), 4)  # two edges, the filter for each plane, the stencil

        def within_another(x, w, dy):
            return tf.function(compute, autograph=False)(tf.nn.relu(x), w, tf.nn.relu(dy))

        text = hlo(within_another, tensors, "CPU")
        self.assertEqual(passes(text), 5)
        self.assertEqual(made_lines(entry(text), math.prod(x.shape)), ["bitcast"])

    @parameterized.expand(product((4, 7), ("output", "input_grad")))
    def test_large_images_are_not_copied(self, kernel, contraction):
        """Not padded: read as a line, by one stencil, and by one more for both ends."""
        x = tf.zeros([1, 128, 128, 64])
        tensors = x, tf.zeros([kernel, kernel, 64, 1]), x
        samples = math.prod(x.shape)
        text = hlo(taps(contraction, 1, "NHWC"), tensors, "CPU")
        self.assertEqual(flaws(text, image=samples), [])
        self.assertLessEqual(passes(text), 3)  # the ends laid out, their stencil, and the other
        self.assertEqual(sum(multiplications(part) > 3 for part in computations(text)), 2)
        self.assertEqual(flaws(hlo(taps(contraction, 1, "NHWC"), tensors, "GPU"), image=samples), [])

    @parameterized.expand([("NHWC",), ("NCHW",)])
    def test_an_input_gradient_with_several_outputs_is_summed_from_memory(self, data_format):
        """A pad, the stencil, the sum over the outputs: in one fusion, the last two would be scalar code."""
        x, _, _ = inputs(7, 1, data_format)
        dy = tf.repeat(x, 2, axis=data_format.index("C"))
        w = tf.zeros([7, 7, CHANNELS, 2])
        self.assertEqual(passes(hlo(taps("input_grad", 1, data_format), (x, w, dy), "CPU")), 3)

    @parameterized.expand(
        [
            *product([(9, 9)], ("NHWC", "NCHW"), CONTRACTIONS),
            *product([(33, 2), (10, 7)], ("NHWC",), ("output", "input_grad")),
        ]
    )
    def test_the_loop_of_a_large_filter_reads_from_memory(self, kernel, data_format, contraction):
        """Arithmetic on slices that begin anywhere is scalar code."""
        x, _, dy = inputs(9, 1, data_format)
        with mock.patch.multiple(correlate, MOST_SUMS_AT_ONCE=1, MOST_SUMS_A_TURN=1):
            text = hlo(taps(contraction, 1, data_format), (x, tf.zeros([*kernel, CHANNELS, 1]), dy), "CPU")
        self._check_loop(text)

    @parameterized.expand(
        [
            ("NHWC", 16, 2, 64),
            ("NHWC", 17, 2, None),
            ("NHWC", 20, 20, 1),
            ("NCHW", 16, 4, 16),
            ("NCHW", 10, 2, None),
        ]
    )
    def test_an_input_gradient_of_large_strides_is_written_out(self, data_format, kernel, stride, terms):
        """A term for each tap in a phase, and no loop; unless terms are too many."""
        text = hlo(taps("input_grad", stride, data_format), inputs(kernel, stride, data_format), "CPU")
        if terms is None:
            self.assertIn(" while(", text)
        else:
            self.assertEqual(multiplications(text), terms)

    @parameterized.expand([("NHWC",), ("NCHW",)])
    def test_the_loop_over_microbatches_reads_from_memory(self, data_format):
        """And there are partial sums of one image at a time."""
        image = tf.zeros([BATCH, 7, 7, CHANNELS] if data_format == "NHWC" else [BATCH, CHANNELS, 7, 7])
        compute = taps("filter_grad", 1, data_format, Taps(in_microbatches=True))
        with mock.patch.object(microbatches, "MOST_SUMS", 1):
            text = hlo(compute, (image, tf.zeros([7, 7, CHANNELS, 1]), image), "CPU")
        self._check_loop(text)
        summed = {dims.split(",")[0] for dims, op in INSTRUCTION.findall(text) if op == "reduce-window"}
        self.assertEqual(summed, {"1"})

    def _check_loop(self, text):
        """There is one, and what slices an image in it does no arithmetic."""
        self.assertIn(" while(", text)
        sliced = [part for part in computations(text) if " dynamic-slice(" in part]
        self.assertTrue(sliced)
        self.assertEqual(sum(map(multiplications, sliced)), 0)

    @parameterized.expand([(3, 1), (5, 1), (7, 1), (5, 2)])
    def test_what_has_several_users_is_computed_once(self, kernel, stride):
        """In a layer normalisation after the convolution and its bias, one computation multiplies taps."""
        x, w, _ = inputs(kernel, stride, "NHWC")

        def normalised(x, w, bias):
            y = depthwise_conv2d(x, w, strides_of(stride, "NHWC"), "SAME") + bias
            mean, variance = tf.nn.moments(y, [3], keepdims=True)
            return (y - mean) * tf.math.rsqrt(variance + 1e-3)

        text = hlo(normalised, (x, w, tf.ones([CHANNELS])), "CPU")
        self.assertEqual(sum(multiplications(part) > 3 for part in computations(text)), 1)

    @parameterized.expand(product(("NHWC", "NCHW"), ("output", "input_grad")))
    def test_a_filter_that_covers_the_image_takes_a_term_for_each_of_its_samples(self, data_format, contraction):
        shape = [2, 6, 7, CHANNELS] if data_format == "NHWC" else [2, CHANNELS, 6, 7]
        x = tf.zeros(shape)
        text = hlo(taps(contraction, 1, data_format), (x, tf.zeros([13, 13, CHANNELS, 1]), x), "CPU")
        self.assertEqual(multiplications(text), 6 * 7)

    # The tests above can fail: they do on the op that this lowering replaces, and on the plain way to write it.

    @parameterized.expand(product(("CPU", "GPU"), CONTRACTIONS))
    def test_the_stock_op_has_flaws(self, platform, contraction):
        text = hlo(stock(contraction), inputs(3, 1, "NHWC"), platform)
        self.assertTrue({"convolution", "custom-call"} & set(flaws(text)), flaws(text))

    @parameterized.expand([("CPU",), ("GPU",)])
    def test_padding_first_has_a_flaw(self, platform):
        text = hlo(padded_first, inputs(3, 1, "NHWC"), platform)
        self.assertIn(f"pad to {BATCH * (SIZE + 2) ** 2 * CHANNELS} elements", flaws(text))

    def test_padding_first_takes_more_passes(self):
        text = hlo(padded_first, inputs(3, 1, "NHWC"), "CPU")
        self.assertGreater(passes(text), PADS["NHWC"][3] + 1)
