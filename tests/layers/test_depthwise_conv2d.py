"""The layer against Keras's own, against the oracle, and through saving."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from depthwise.conformance import oracle
from depthwise.conformance.tolerance import error_bound, error_in_bounds
from depthwise.layers import DepthwiseConv2D
from parameterized import parameterized


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class Bounded(unittest.TestCase):
    def assert_conforms(self, layer, x, actual):
        """The layer's linear output `actual` on the image batch x lies within rounding of the oracle's."""
        geometry = {
            "strides": layer.strides,
            "padding": layer.padding.upper() if isinstance(layer.padding, str) else layer.padding,
            "dilations": layer.dilation_rate,
            "data_format": "NHWC" if layer.data_format == "channels_last" else "NCHW",
        }
        arrays = (x, layer.kernel.numpy())
        expected = oracle.value(*arrays, **geometry)
        magnitude, terms = (f(oracle.value, *arrays, **geometry) for f in (oracle.magnitude, oracle.terms))
        bound = error_bound(expected, magnitude, terms, "float32")
        self.assertLessEqual(error_in_bounds(np.asarray(actual), expected, bound, "float32").max(initial=0), 1)


class BeyondKerasTest(Bounded):
    @parameterized.expand(
        [
            ("explicit", {"padding": ((2, 0), (1, 3))}),
            ("explicit_lists", {"padding": [[2, 0], [1, 3]]}),
            ("explicit_strided_dilated", {"padding": ((2, 1), (0, 3)), "strides": (2, 3), "dilation_rate": (3, 2)}),
            ("unequal_strides", {"padding": "same", "strides": (3, 1)}),
            ("strides_with_dilations", {"padding": "SAME", "strides": 2, "dilation_rate": 2}),
            ("taps", {"lowering": "taps"}),
            ("native", {"lowering": "native", "depth_multiplier": 3}),
        ]
    )
    def test_against_the_oracle(self, _, arguments):
        for data_format, shape in (("channels_last", (2, 9, 8, 3)), ("channels_first", (2, 3, 9, 8))):
            x = images(*shape)
            layer = DepthwiseConv2D((3, 2), data_format=data_format, use_bias=False, **arguments)
            outputs = layer(x)
            self.assert_conforms(layer, x, outputs)
            self.assertEqual(layer.compute_output_shape(shape), tuple(outputs.shape))
            compiled = tf.function(layer, jit_compile=True)(x)
            self.assert_conforms(layer, x, compiled)

    def test_bound_is_sharp_enough_to_see_a_wrong_pad(self):
        x = images(2, 9, 8, 3)
        layer = DepthwiseConv2D(3, padding=((1, 1), (1, 1)), use_bias=False)
        outputs = layer(x)
        layer.padding = ((2, 0), (1, 1))
        with self.assertRaises(AssertionError):
            self.assert_conforms(layer, x, outputs)

    @parameterized.expand(
        [
            ("pads_of_rows_alone", {"padding": (1, 1)}, "padding"),
            ("negative", {"padding": ((0, -1), (0, 0))}, "padding"),
            ("fraction", {"padding": ((0, 0.5), (0, 0))}, "padding"),
            ("boolean", {"padding": ((True, 1), (0, 0))}, "padding"),
            ("none", {"padding": None}, "padding"),
            ("word", {"padding": "full"}, "padding"),
        ]
    )
    def test_refuses(self, _, arguments, message):
        with self.assertRaisesRegex(ValueError, message):
            DepthwiseConv2D(3, **arguments)

    def test_refuses_integers_in_the_layers_words(self):
        with self.assertRaisesRegex(TypeError, "`inputs` of mine must be floating.*uint8.*Cast the images"):
            DepthwiseConv2D(3, name="mine")(np.zeros((1, 8, 8, 3), "uint8"))

    def test_refuses_padding_that_leaves_no_output(self):
        with self.assertRaisesRegex(ValueError, "at least 1 x 1.*padding=\\(\\(1, 0\\), \\(0, 0\\)\\)"):
            DepthwiseConv2D(5, padding=((1, 0), (0, 0)))(images(1, 3, 8, 1))


class SavingTest(unittest.TestCase):
    def test_keras_file_in_a_fresh_process(self):
        inputs = keras.Input((8, 8, 2))
        x = DepthwiseConv2D(3, padding=((2, 0), (0, 1)), activation="relu", lowering="taps")(inputs)
        x = DepthwiseConv2D((2, 3), 2, "same", 2, dilation_rate=(1, 2), dtype="mixed_bfloat16")(x)
        model = keras.Model(inputs, x)
        data = images(3, 8, 8, 2)
        serve = (
            "import sys, keras, numpy, depthwise.layers\n"
            "model = keras.saving.load_model(sys.argv[1])\n"
            "assert type(model.layers[1]) is depthwise.layers.DepthwiseConv2D\n"
            "assert model.layers[1].padding == ((2, 0), (0, 1)) and model.layers[1].lowering == 'taps'\n"
            "numpy.save(sys.argv[3], model.predict(numpy.load(sys.argv[2]), verbose=0).astype('float32'))\n"
        )
        with tempfile.TemporaryDirectory() as folder:
            files = [str(Path(folder) / name) for name in ("model.keras", "x.npy", "y.npy")]
            model.save(files[0])
            np.save(files[1], data)
            subprocess.run([sys.executable, "-c", serve, *files], check=True, capture_output=True)
            np.testing.assert_array_equal(np.load(files[2]), model.predict(data, verbose=0).astype("float32"))

    def test_another_backend_is_refused(self):
        # Keras itself refuses a backend that isn't installed, before this package sees it: so pretend.
        script = """
import keras
for backend in ("jax", "torch"):
    keras.backend.backend = lambda: backend
    try:
        import depthwise.layers
    except ImportError as error:
        print(backend, "refused:", error)
"""
        process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        refusals = process.stdout.strip().splitlines()
        self.assertEqual(len(refusals), 2, process.stderr[-2000:])
        for backend, refusal in zip(("jax", "torch"), refusals, strict=True):
            self.assertIn(f"{backend} refused:", refusal)
            self.assertIn("KERAS_BACKEND=tensorflow", refusal)
            self.assertIn(repr(backend), refusal)
