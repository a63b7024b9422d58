"""The floor of whole models: the same model, but for its depthwise convolutions."""

import unittest

import keras
import numpy as np

from benchmarks.models import _without_convolutions

INPUTS = (13, 12, 6)


def model_with_depthwise_layers():
    layers = keras.layers
    x = inputs = keras.Input(INPUTS)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="valid")(x)
    x = layers.Conv2D(8, 7, padding="same", groups=8)(x)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


class WithoutConvolutionsTest(unittest.TestCase):
    def test_all_layers_keep_their_shapes_and_the_depthwise_ones_convolve_no_more(self):
        model = model_with_depthwise_layers()
        floor = _without_convolutions(model)
        self.assertEqual([layer.output.shape for layer in floor.layers], [layer.output.shape for layer in model.layers])
        kinds = [type(layer).__name__ for layer in floor.layers]
        expected = ["InputLayer", "Scale", "Conv2D", "Scale", "Scale", "GlobalAveragePooling2D", "Dense"]
        self.assertEqual(kinds, expected)

    def test_a_scaled_sample_takes_the_place_of_each_sum(self):
        x = np.random.default_rng(1).normal(size=(2, *INPUTS)).astype("float32")
        inputs = keras.Input(INPUTS)
        floor = _without_convolutions(keras.Model(inputs, keras.layers.DepthwiseConv2D(3, strides=2)(inputs)))
        floor.layers[1].scale.assign(np.arange(1.0, 7.0))
        np.testing.assert_array_equal(floor(x), x[:, :11:2, :10:2] * np.arange(1, 7, dtype="float32"))
