"""Models of keras.applications, converted: forward and one training step, plain and compiled, and the way back.

In float64, losses included, so that rounding (2**-53) stays far below the 2**-24 that is allowed, however a deep
network amplifies it, and whatever else differs shows.
"""

import unittest

import keras
import numpy as np
import pytest
import tensorflow as tf
from depthwise import layers as ours
from parameterized import parameterized

apps = keras.applications

MODELS = [
    # name, how it is made, image size, layers to be replaced
    ("MobileNetV2", lambda shape: apps.MobileNetV2(shape, alpha=0.35, weights=None, classes=10), 32, 17),
    ("MobileNetV3Small", lambda shape: apps.MobileNetV3Small(shape, weights=None, classes=10), 32, 11),
    ("EfficientNetB0", lambda shape: apps.EfficientNetB0(input_shape=shape, weights=None, classes=10), 32, 16),
    ("Xception", lambda shape: apps.Xception(input_shape=shape, weights=None, classes=10), 71, 34),
    ("NASNetMobile", lambda shape: apps.NASNetMobile(shape, weights=None, classes=10), 32, 160),
    ("ConvNeXtTiny", lambda shape: apps.ConvNeXtTiny(input_shape=shape, weights=None, classes=10), 32, 18),
]
BOUND = 2.0**-24


def without_dropout(model):
    """Dropout draws other numbers under XLA."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0
    return model


def replaced(model):
    classes = ours.DepthwiseConv2D, ours.SeparableConv2D, ours.Conv2D
    return [layer for layer in model._flatten_layers() if isinstance(layer, classes)]


def trained(model, images, labels, jit_compile):
    """The weights of the model after one step, and its loss."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    without_dropout(copy).compile(keras.optimizers.SGD(0.01), "categorical_crossentropy", jit_compile=jit_compile)
    loss = copy.train_on_batch(images, labels)
    return [loss, *copy.get_weights()]


class ApplicationsTest(unittest.TestCase):
    def setUp(self):
        self.addCleanup(keras.config.set_dtype_policy, keras.config.dtype_policy())
        self.addCleanup(keras.config.set_floatx, keras.config.floatx())
        keras.config.set_dtype_policy("float64")
        keras.config.set_floatx("float64")
        keras.utils.set_random_seed(0)

    def assert_close(self, actual, expected):
        actual, expected = np.asarray(actual), np.asarray(expected)
        self.assertLessEqual(np.abs(actual - expected).max(initial=0), BOUND * max(1, np.abs(expected).max(initial=0)))

    @parameterized.expand(MODELS)
    @pytest.mark.slow
    def test_converted(self, _, make, size, count):
        model = make((size, size, 3))
        draw = np.random.default_rng(0)
        images, labels = draw.uniform(-1, 1, (4, size, size, 3)), np.eye(10)[draw.integers(0, 10, 4)]
        expected = model(images)
        converted = ours.convert(model)
        self.assertEqual(len(replaced(converted)), count)
        self.assert_close(converted(images), expected)
        self.assert_close(tf.function(converted, jit_compile=True)(images), expected)
        back = ours.convert(converted, to="keras")
        self.assertEqual(replaced(back), [])
        np.testing.assert_array_equal(back(images), expected)
        stepped = trained(model, images, labels, False)
        for jit_compile in (False, True):
            for actual, wanted in zip(trained(converted, images, labels, jit_compile), stepped, strict=True):
                self.assert_close(actual, wanted)
