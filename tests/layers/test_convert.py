"""convert: what it replaces, what it leaves alone, what survives, and the way back."""

import functools
import unittest
import unittest.mock

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


def relu(x):
    """Of the name of another function."""
    return 100 * x


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


class OwnClass(keras.Model):
    """A functional model with a method of its own, and Keras's `__init__`."""

    def twice(self, x):
        return 2 * self(x)


class Lazy(keras.Model):
    """Keras keeps too little of how it was called to build it again."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layer = keras.layers.DepthwiseConv2D(3)

    def call(self, a, b):
        return self.layer(a) + self.layer(b)


@keras.saving.register_keras_serializable(package="test_convert")
class Around(keras.layers.Wrapper):
    def call(self, x):
        return self.layer(x)


def with_lambda(cls):
    inputs = keras.Input((8, 8, 3))
    twice = keras.layers.Lambda(lambda x: tf.multiply(x, 2.0))  # tf: a global, which Keras's configs do not hold
    return cls(inputs, keras.layers.DepthwiseConv2D(3)(twice(inputs)))


def with_custom_layer_in_own_class():
    inputs = keras.Input((8, 8, 3))
    return OwnClass(inputs, Block(3)(inputs))


def with_own_function():
    def tripled(x):
        return 3 * x

    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.DepthwiseConv2D(3, activation=tripled)])


def with_two_classes_of_one_name():
    def times(factor):
        class Times(keras.layers.Layer):
            def call(self, x):
                return factor * x

        return Times()

    return keras.Sequential([keras.Input((8, 8, 3)), times(2), keras.layers.DepthwiseConv2D(3), times(3)])


def shared_between_models():
    shared = keras.layers.DepthwiseConv2D(3, padding="same")
    inner = keras.Sequential([keras.Input((8, 8, 3)), shared])
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, inner(shared(inputs)))


def compiled_inside():
    model = nested()
    model.layers[0].compile("sgd", functools.partial(squares, 2.0))
    return model


def squares(scale, expected, found):
    return scale * keras.ops.mean((expected - found) ** 2)


def normalized():
    normalization = keras.layers.Normalization()
    normalization.adapt(np.repeat([98.0, 102.0], 3).reshape(2, 3))  # mean 100, deviation 2: nothing is rounded
    return [normalization], images(2, 8, 8, 3)


def looked_up():
    lookup = keras.layers.StringLookup()
    lookup.adapt(["a", "b", "c"])
    text = np.random.default_rng(0).choice(["a", "b", "c", "d"], (2, 8, 8, 3))
    return [lookup, keras.layers.Rescaling(1.0)], tf.constant(text)


def vectorized():
    vectorization = keras.layers.TextVectorization(output_sequence_length=8)
    vectorization.adapt(["a b c", "c d"])
    layers = [vectorization, keras.layers.Embedding(9, 6), keras.layers.Reshape((8, 6, 1))]
    return layers, tf.constant(["a c x", "d"])


def stacked(layers, x):
    inputs = keras.Input(x.shape[1:], dtype=x.dtype.name if isinstance(x, tf.Tensor) else x.dtype)
    outputs = inputs
    for layer in [*layers, keras.layers.DepthwiseConv2D(3)]:
        outputs = layer(outputs)
    return inputs, outputs


def called(model, *tensors):
    model(*tensors)
    return model


def shared_with_wrapper():
    shared = keras.layers.DepthwiseConv2D(3, padding="same")
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, Around(shared)(shared(inputs)))


class OwnLoss(keras.losses.Loss):
    def call(self, expected, found):
        return squares(1.0, expected, found)


class OwnMetric(keras.metrics.MeanSquaredError):
    pass


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.125

    def get_config(self):
        return {}


STATES = [normalized, looked_up, vectorized]

MODELS = [
    # how it is made, layers to be replaced
    (sequential, 1),
    (functional, 4),
    (nested, 2),
    (wrapped, 1),
    (with_custom_layer, 2),
    (subclassed, 1),
    (lambda: OwnFunctional(2), 1),
    (lambda: with_lambda(keras.Model), 1),
    (lambda: with_lambda(OwnClass), 1),
    (with_custom_layer_in_own_class, 2),
    (with_own_function, 1),
    (shared_between_models, 1),
    (with_two_classes_of_one_name, 1),
    (compiled_inside, 2),
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

    @parameterized.expand([("keras_ops", keras.ops.gelu), ("own", relu), ("no_name", lambda x: 2 * x)])
    def test_activations_are_the_same_functions(self, _, activation):
        """Whatever else goes by their names."""
        layers = keras.layers.DepthwiseConv2D(3, activation=activation), keras.layers.Dense(2, activation=activation)
        converted = ours.convert(keras.Sequential([keras.Input((8, 8, 3)), *layers]))
        for model in (converted, ours.convert(converted, to="keras")):
            self.assertEqual([layer.activation for layer in model.layers], [activation] * 2)

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

    @parameterized.expand(
        [
            ("padding", ours.DepthwiseConv2D(3, padding=((1, 0), (0, 0)), name="odd_one")),
            ("lowering", ours.DepthwiseConv2D(3, lowering="taps", name="odd_one")),
            ("lowering", ours.SeparableConv2D(3, 3, lowering="native", name="odd_one")),
            ("lowering", ours.Conv2D(4, 3, groups=2, lowering="portable", name="odd_one")),
        ]
    )
    def test_refuses_the_way_back(self, word, layer):
        model = keras.Sequential([keras.Input((8, 8, 2)), layer])
        with self.assertRaisesRegex(ValueError, f"'odd_one' has .*{word}"):
            ours.convert(model, to="keras")

    def test_sets_the_lowering_of_all_layers_or_keeps_each_its_own(self):
        converted = ours.convert(functional(), lowering="portable")
        self.assertEqual({layer.lowering for layer in replaced(converted)}, {"portable"})
        self.assertEqual({layer.lowering for layer in replaced(ours.convert(converted))}, {"portable"})
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(converted))
        self.assertEqual({layer.lowering for layer in replaced(again)}, {"portable"})
        plain = ours.convert(converted, lowering="auto")
        self.assertEqual({layer.lowering for layer in replaced(plain)}, {"auto"})
        self.assertFalse(replaced(ours.convert(plain, to="keras")))

    def test_refuses_other_arguments(self):
        with self.assertRaisesRegex(TypeError, "`model` must be a Keras model"):
            ours.convert(keras.layers.DepthwiseConv2D(3))
        with self.assertRaisesRegex(ValueError, "`to` must be 'depthwise' or 'keras', but got 'torch'"):
            ours.convert(sequential(), to="torch")
        with self.assertRaisesRegex(ValueError, r"`to` must be 'depthwise' or 'keras', but got \['keras'\]"):
            ours.convert(sequential(), to=["keras"])
        with self.assertRaisesRegex(ValueError, "convert argument `lowering` must be one of 'auto'.* but got 'fast'"):
            ours.convert(sequential(), lowering="fast")
        with self.assertRaisesRegex(ValueError, "`lowering` must not be given for to='keras'"):
            ours.convert(sequential(), to="keras", lowering="auto")

    @parameterized.expand(
        [
            # what keeps the model from being made again, the model, what the error says
            ("no get_config", lambda: WithoutConfig(keras.layers.DepthwiseConv2D(3)), "WithoutConfig.*get_config"),
            (
                "several tensors",
                lambda: called(Lazy(), images(1, 8, 8, 3), images(1, 8, 8, 3)),
                r"'lazy\w*' \(Lazy with .* \[\(3, 3, 3, 1\), \(3,\)\]\) comes back as .* of shapes \[\]\)",
            ),
            ("sharing", shared_with_wrapper, r"Functional.* \[(.*)\]\) comes back as .* \[\1, \1\]\)"),
        ]
    )
    def test_says_when_keras_cannot_make_the_model_again(self, _, make, message):
        with self.assertRaisesRegex(TypeError, f"`model` must be one that Keras can make again.*{message}"):
            ours.convert(make())

    def test_converts_before_the_first_call_what_keras_cannot_build(self):
        converted = ours.convert(Lazy())
        converted(images(1, 8, 8, 3), images(1, 8, 8, 3))
        self.assertEqual(len(replaced(converted)), 1)

    @parameterized.expand([(make.__name__, make, cls) for make in STATES for cls in (keras.Model, OwnClass)])
    def test_state_that_is_no_weight(self, _, make, cls):
        layers, x = make()
        inner = cls(*stacked(layers, x))
        for layer in inner.layers:
            if layer.trainable_weights:
                make_whole(layer)
        for model in (inner, keras.Model(inner.input, inner(inner.input))):
            expected = np.asarray(model(x))
            np.testing.assert_array_equal(ours.convert(model)(x), expected)
            np.testing.assert_array_equal(ours.convert(ours.convert(model), to="keras")(x), expected)

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

    @parameterized.expand([(ours, keras.layers, "keras"), (keras.layers, ours, "depthwise")])
    def test_an_unbuilt_layer_is_built_by_its_new_class(self, before, after, to):
        with unittest.mock.patch.object(after.DepthwiseConv2D, "build", autospec=True) as build:
            ours.convert(keras.Sequential([before.DepthwiseConv2D(3)]), to).layers[0].build((None, 8, 8, 3))
        self.assertEqual(build.call_count, 1)

    def test_a_built_layer_answers_build_as_keras_s_does(self):
        model = keras.Sequential([keras.Input((8, 8, 3)), ours.DepthwiseConv2D(3)])
        with self.assertRaisesRegex(ValueError, "already built"):
            ours.convert(model, to="keras").layers[0].build((None, 8, 8, 3))

    @parameterized.expand([(with_custom_layer, "first"), (subclassed, "block"), (nested, None)])
    def test_trainable_flags(self, make, frozen):
        model = make()
        block = model.layers[0] if make is with_custom_layer else model
        (getattr(block, frozen) if frozen else model.layers[1].layers[1]).trainable = False
        converted = ours.convert(model)
        flags = [
            [(layer.trainable, [w.trainable for w in layer.weights]) for layer in flat(m) if layer.weights]
            for m in (model, converted)
        ]
        self.assertEqual(*flags)
        self.assertLess(len(converted.trainable_weights), len(converted.weights))

    def test_a_weight_that_is_frozen_by_itself(self):
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.DepthwiseConv2D(3)])
        model.layers[0].bias.trainable = False
        self.assertEqual([w.trainable for w in ours.convert(model).weights], [True, False])

    @unittest.skipIf(
        [int(number) for number in keras.__version__.split(".")[:2]] < [3, 10],
        "before 3.10, Keras lets no input in a dict be left out",
    )
    def test_inputs_keep_their_names_and_may_be_left_out(self):
        class Either(keras.layers.Layer):
            def call(self, a, b):
                return a if b is None else a + b

        a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3), name="b", optional=True)
        model = keras.Model({"a": a, "b": b}, keras.layers.DepthwiseConv2D(3)(Either()(a, b)))
        converted = ours.convert(model)
        self.assertEqual([layer.name for layer in converted.layers], [layer.name for layer in model.layers])
        x = images(2, 8, 8, 3)
        make_whole(model), make_whole(converted)
        for inputs in ({"a": x, "b": x}, {"a": x, "b": None}):
            np.testing.assert_array_equal(converted(inputs), model(inputs))

    def test_a_part_of_another_models_graph(self):
        whole = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.ReLU(), keras.layers.DepthwiseConv2D(3)])
        part = keras.Model(whole.layers[0].output, whole.layers[1].output)
        make_whole(part)
        x = images(2, 8, 8, 3)
        np.testing.assert_array_equal(ours.convert(part)(x), part(x))

    def test_losses_are_scaled_whatever_the_policy_is_now(self):
        keras.config.set_dtype_policy("mixed_float16")
        self.addCleanup(keras.config.set_dtype_policy, "float32")
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.DepthwiseConv2D(3)])
        model.compile("sgd", "mse")
        keras.config.set_dtype_policy("float32")
        converted = ours.convert(model)
        self.assertIs(type(converted.optimizer), type(model.optimizer))
        self.assertEqual(converted.dtype_policy, model.dtype_policy)
        self.assertEqual(keras.config.dtype_policy().name, "float32")

    @parameterized.expand(
        [
            ("function", lambda: {"loss": lambda y, p: squares(1.0, y, p)}),
            ("partial", lambda: {"loss": functools.partial(squares, 2.0)}),
            ("class", lambda: {"loss": OwnLoss(), "metrics": [OwnMetric(), "mae", lambda y, p: keras.ops.mean(y)]}),
            ("schedule", lambda: {"loss": "mse", "optimizer": keras.optimizers.SGD(OwnSchedule(), momentum=0.5)}),
            ("eager", lambda: {"loss": "mse", "weighted_metrics": ["mse"], "loss_weights": 2.0, "run_eagerly": True}),
        ]
    )
    def test_compiled_alike_with_what_is_not_registered(self, _, arguments):
        model = keras.Sequential([*sequential().layers, keras.layers.Flatten(), keras.layers.Dense(1)])
        x, y = images(4, 8, 8, 3), images(4, 1)
        model(x)
        make_whole(model)
        model.compile(**{"optimizer": keras.optimizers.SGD(0.125, momentum=0.5), **arguments()})
        converted = ours.convert(model)
        self.assertTrue(model.compiled)
        self.assertIsNot(converted.optimizer, model.optimizer)
        for _ in range(2):  # the optimizer's slots take part in the second step
            losses = [m.train_on_batch(x, y, return_dict=True) for m in (model, converted)]
            self.assertEqual(*losses)
        self.assertEqual(converted.run_eagerly, model.run_eagerly)
        for metric in converted.metrics:
            self.assertNotIn(id(metric), map(id, model.metrics))

    @parameterized.expand(
        [
            ("metric", lambda: {"metrics": [keras.metrics.MeanMetricWrapper(lambda y, p: y - p)]}, "MeanMetricWrapper"),
            ("optimizer", lambda: {"optimizer": keras.optimizers.SGD(lambda: 0.5)}, "SGD"),
        ]
    )
    def test_says_what_cannot_be_compiled_alike(self, _, arguments, words):
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.DepthwiseConv2D(3)])
        model.compile(**{"loss": "mse", **arguments()})
        with self.assertRaisesRegex(TypeError, f"must be compiled with .*{words}.*Compile the model after"):
            ours.convert(model)

    def test_says_that_own_ways_to_compile_are_not_carried_over(self):
        class Own(Subclassed):
            def compile(self, first, second):
                super().compile(first)

        model = called(Own(2), images(1, 8, 8, 3))
        model.compile("sgd", "adam")
        with self.assertWarnsRegex(UserWarning, "`compile\\(\\)` was not called"):
            self.assertFalse(ours.convert(model).compiled)
        self.assertTrue(model.compiled)

    def test_weights_of_lora_are_kept_apart(self):
        model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(8, 3, groups=4)])
        model.layers[0].enable_lora(2)
        make_whole(model)
        for a, b in zip(model.get_weights(), ours.convert(model).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
