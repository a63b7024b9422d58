"""convert: what it replaces, what it leaves alone, what survives, and the way back."""

import unittest

import keras
import numpy as np
import tensorflow as tf
from depthwise import layers as ours
from parameterized import parameterized

PAIRS = [
    (keras.layers.DepthwiseConv2D, ours.DepthwiseConv2D),
    (keras.layers.SeparableConv2D, ours.SeparableConv2D),
    (keras.layers.Conv2D, ours.Conv2D),
]
OURS = tuple(pair[1] for pair in PAIRS)


def flat(model):
    """Every layer of the model, however deep."""
    return model._flatten_layers()


def replaced(model):
    return [layer for layer in flat(model) if isinstance(layer, OURS)]


def images(*shape):
    """Whole numbers: sums of their products are exact in float32, so that no order of summation can excuse a bit."""
    return np.random.default_rng(0).integers(-9, 10, shape).astype("float32")


def make_whole(model):
    """Gives every weight random whole values (above 0, for the sake of moving variances)."""
    draw = np.random.default_rng(1)
    model.set_weights([draw.integers(1, 5, weight.shape) for weight in model.get_weights()])


def branches():
    return [
        keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise"),
        keras.layers.SeparableConv2D(6, 3, padding="same", name="separable"),
        keras.layers.Conv2D(6, 3, padding="same", groups=3, name="grouped"),
    ]


def sequential():
    return keras.Sequential([keras.Input((8, 8, 3)), branches()[0], keras.layers.BatchNormalization()])


def functional():
    inputs = keras.Input((8, 8, 3), name="image")
    shared = keras.layers.DepthwiseConv2D(3, padding="same")
    branched = keras.layers.Concatenate()([layer(inputs) for layer in branches()])
    return keras.Model(inputs, {"branched": branched, "shared": shared(shared(inputs))}, name="net")


def nested():
    inner = sequential()
    inner.trainable = False
    return keras.Sequential([keras.Input((8, 8, 3)), inner, functional_block(6), keras.layers.Conv2D(4, 1)])


def functional_block(channels):
    inputs = keras.Input((8, 8, channels))
    return keras.Model(inputs, keras.layers.SeparableConv2D(3, 3)(inputs))


def wrapped():
    layer = keras.layers.TimeDistributed(keras.layers.DepthwiseConv2D(3))
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Reshape((1, 8, 8, 3)), layer])


class Block(keras.layers.Layer):
    """A layer that Keras knows nothing of, with layers in an attribute and in a list."""

    def __init__(self, taps, **kwargs):
        super().__init__(**kwargs)
        self.taps = taps
        self.first = keras.layers.DepthwiseConv2D(taps, padding="same")
        self.others = [keras.layers.SeparableConv2D(3, taps, padding="same")]

    def build(self, shape):
        self.first.build(shape)
        self.others[0].build(shape)

    def call(self, x):
        return self.others[0](self.first(x))

    def get_config(self):
        return {**super().get_config(), "taps": self.taps}


def with_custom_layer():
    return keras.Sequential([keras.Input((8, 8, 3)), Block(3)])


class Subclassed(keras.Model):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.block = keras.layers.DepthwiseConv2D(3, depth_multiplier=width)
        self.head = keras.layers.Dense(2)

    def call(self, x):
        return self.head(self.block(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def subclassed():
    model = Subclassed(2)
    model(images(1, 8, 8, 3))
    return model


class OwnFunctional(keras.Model):
    """A functional model under a class of its own."""

    def __init__(self, width, **kwargs):
        inputs = keras.Input((8, 8, 3))
        super().__init__(inputs, keras.layers.DepthwiseConv2D(3, depth_multiplier=width)(inputs), **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}


class WithoutConfig(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer


MODELS = [
    # how it is made, layers to be replaced
    (sequential, 1),
    (functional, 4),
    (nested, 2),
    (wrapped, 1),
    (with_custom_layer, 2),
    (subclassed, 1),
    (lambda: OwnFunctional(2), 1),
]


class ConvertTest(unittest.TestCase):
    def setUp(self):
        keras.utils.set_random_seed(0)

    @parameterized.expand(MODELS)
    def test_there_and_back(self, make, count):
        model = make()
        make_whole(model)
        weights = model.get_weights()
        x = images(2, 8, 8, 3)
        expected = model.predict(x, verbose=0)
        converted = ours.convert(model)
        back = ours.convert(converted, to="keras")
        self.assertEqual([len(replaced(m)) for m in (model, converted, back)], [0, count, 0])
        for other in (converted, back):
            self.assertIs(type(other), type(model))
            for what in ("name", "shape", "dtype", "trainable"):
                self.assertEqual([getattr(w, what) for w in other.weights], [getattr(w, what) for w in model.weights])
            for a, b in zip(other.get_weights(), weights, strict=True):
                np.testing.assert_array_equal(a, b)
            tf.nest.map_structure(np.testing.assert_array_equal, other.predict(x, verbose=0), expected)

    def test_weights_are_the_converted_models_own(self):
        model = sequential()
        converted = ours.convert(model)
        for weight in converted.weights:
            weight.assign(weight + 1)
        self.assertFalse(np.array_equal(model.get_weights()[0], converted.get_weights()[0]))

    @parameterized.expand(PAIRS)
    def test_exact_classes_alone(self, theirs, mine):
        class Mine(theirs):
            def call(self, inputs):
                return super().call(inputs) + 1

        arguments = {"kernel_size": 3} if theirs is keras.layers.DepthwiseConv2D else {"filters": 4, "kernel_size": 3}
        model = keras.Sequential([keras.Input((8, 8, 2)), Mine(**arguments)])
        self.assertEqual(replaced(ours.convert(model)), [])

    def test_ungrouped_convolutions_stay_keras_s(self):
        model = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(4, 3)])
        self.assertEqual(replaced(ours.convert(model)), [])

    def test_compiled_alike(self):
        model = sequential()
        model.compile("sgd", "mse")
        converted = ours.convert(model)
        x, y = images(4, 8, 8, 3), images(4, 8, 8, 6)
        losses = [m.train_on_batch(x, y) for m in (model, converted)]
        self.assertEqual(*losses)
        for a, b in zip(model.get_weights(), converted.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_converted_model_is_saved_and_loaded(self):
        converted = ours.convert(functional())
        config = keras.saving.serialize_keras_object(converted)
        again = keras.saving.deserialize_keras_object(config)
        self.assertEqual(len(replaced(again)), 4)

    @parameterized.expand([("padding", {"padding": ((1, 0), (0, 0))}), ("lowering", {"lowering": "taps"})])
    def test_refuses_the_way_back(self, word, arguments):
        model = keras.Sequential([keras.Input((8, 8, 2)), ours.DepthwiseConv2D(3, name="odd_one", **arguments)])
        with self.assertRaisesRegex(ValueError, f"'odd_one' has .*{word}"):
            ours.convert(model, to="keras")

    def test_refuses_other_arguments(self):
        with self.assertRaisesRegex(TypeError, "`model` must be a Keras model"):
            ours.convert(keras.layers.DepthwiseConv2D(3))
        with self.assertRaisesRegex(ValueError, "`to` must be 'depthwise' or 'keras', but got 'torch'"):
            ours.convert(sequential(), to="torch")

    def test_says_when_keras_cannot_make_the_model_again(self):
        with self.assertRaises((TypeError, NotImplementedError)):
            ours.convert(WithoutConfig(keras.layers.DepthwiseConv2D(3)))

    @parameterized.expand([(made.__name__, made) for made in (keras.layers, ours)])
    def test_unbuilt(self, _, made):
        layers = [made.DepthwiseConv2D(3), made.SeparableConv2D(4, 3), made.Conv2D(4, 3, groups=4)]
        wrapped = keras.layers.TimeDistributed(made.DepthwiseConv2D(3))
        model = keras.Sequential([*layers, keras.layers.Reshape((1, 2, 2, 4)), keras.layers.ZeroPadding3D(1), wrapped])
        to, count = ("depthwise", 4) if made is keras.layers else ("keras", 0)
        converted = ours.convert(model, to)
        self.assertEqual(len(replaced(converted)), count)
        x = images(2, 8, 8, 3)
        converted(x), model(x)
        make_whole(model)
        converted.set_weights(model.get_weights())
        np.testing.assert_array_equal(converted(x), model(x))

    def test_unbuilt_layers_follow_the_rules_of_their_new_class(self):
        converted = ours.convert(keras.Sequential([keras.layers.DepthwiseConv2D(9)]))
        with self.assertRaisesRegex(ValueError, "negative|at least 1 x 1|smaller than"):
            converted(images(1, 8, 8, 3))

    def test_a_built_layer_answers_build_as_keras_s_does(self):
        model = keras.Sequential([keras.Input((8, 8, 3)), ours.DepthwiseConv2D(3)])
        with self.assertRaisesRegex(ValueError, "already built"):
            ours.convert(model, to="keras").layers[0].build((None, 8, 8, 3))
