"""Our layers where Keras's stood: the same construction, weights, values, gradients, shapes, errors and files."""

import inspect
import itertools
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from depthwise import layers as ours
from parameterized import parameterized

LAYERS = [
    ("DepthwiseConv2D", {"kernel_size": 3}),
    ("SeparableConv2D", {"filters": 4, "kernel_size": 3}),
    ("Conv2D", {"filters": 6, "kernel_size": 3, "groups": 3}),
]

OLD_KERAS = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13)  # the last for Python 3.10 is 3.12

CASES = [
    (name, {**needed, **more})
    for (name, needed), more in itertools.product(
        LAYERS,
        [
            {},
            {"padding": "SAME", "strides": 2, "use_bias": False},
            {"padding": "same", "dilation_rate": (2, 1), "activation": "tanh", "bias_initializer": "ones"},
            {
                "kernel_size": (2, 4),
                "kernel_regularizer": keras.regularizers.L2(0.5),
                "bias_constraint": "non_neg",
                "activity_regularizer": keras.regularizers.L1(0.25),
            },
        ],
    )
] + [
    ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 3, "depthwise_constraint": "unit_norm"}),
    ("SeparableConv2D", {"filters": 2, "kernel_size": 3, "depth_multiplier": 3, "pointwise_regularizer": "l1"}),
]


def pair(name, arguments):
    """Keras's layer and ours, made with the same arguments and the same seed."""
    arguments = dict(arguments)
    if name != "Conv2D" and "kernel_regularizer" in arguments:
        arguments["depthwise_regularizer"] = arguments.pop("kernel_regularizer")
    made = []
    for module in (keras.layers, ours):
        keras.utils.set_random_seed(7)
        made.append(getattr(module, name)(name="same", **arguments))
    return made


def images(*shape, seed=0):
    """Whole numbers: sums of their products are exact in float32, whatever the order."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype("float32")


def whole_weights(*layers):
    draw = np.random.default_rng(1)
    values = [draw.integers(-3, 4, weight.shape) for weight in layers[0].weights]
    for layer in layers:
        layer.set_weights(values)


def step(layer, x, cotangent):
    """Output, losses, and the gradients of input and weights, for a random cotangent."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(y * tf.cast(cotangent(y.shape), y.dtype)) + sum(tf.cast(v, y.dtype) for v in layer.losses)
    return y, loss, *tape.gradient(loss, [x, *layer.trainable_weights])


class DropInTest(unittest.TestCase):
    @parameterized.expand(LAYERS)
    def test_signature(self, name, _):
        # Of `__init__`: what Python says of a class depends on its version and on Keras's.
        theirs, mine = (dict(inspect.signature(getattr(m, name).__init__).parameters) for m in (keras.layers, ours))
        self.assertEqual(mine.pop("lowering").kind, inspect.Parameter.KEYWORD_ONLY)
        if name != "DepthwiseConv2D":  # the others hand on whatever they are given
            self.assertEqual(list(mine), ["self", "args", "kwargs"])
            return
        self.assertEqual(list(mine), list(theirs))
        self.assertEqual([p.default for p in mine.values()], [p.default for p in theirs.values()])

    @parameterized.expand(LAYERS)
    def test_lowering(self, name, arguments):
        make = getattr(ours, name)
        layer = make(**arguments, lowering="native")
        self.assertEqual(make.from_config(layer.get_config()).lowering, "native")
        self.assertEqual(make.from_config(make(**arguments).get_config()).lowering, "auto")
        with self.assertRaisesRegex(ValueError, f"{name} argument `lowering` must be one of 'auto'.*'fast'"):
            make(**arguments, lowering="fast")
        # Float64 is what native refuses under XLA: so the layer does ask for the lowering it is given.
        layer = make(**arguments, lowering="native", dtype="float64")
        with self.assertRaisesRegex(NotImplementedError, "float64"):
            tf.function(layer, jit_compile=True)(tf.ones([1, 6, 6, 3], tf.float64))

    @parameterized.expand(CASES)
    def test_configuration_and_weights(self, name, arguments):
        theirs, mine = pair(name, arguments)
        self.assertEqual(mine.get_config(), theirs.get_config())
        keras.utils.set_random_seed(3)
        theirs.build((None, 9, 8, 3))
        keras.utils.set_random_seed(3)
        mine.build((None, 9, 8, 3))
        self.assertEqual(mine.get_build_config(), theirs.get_build_config())
        self.assertEqual([w.path for w in mine.weights], [w.path for w in theirs.weights])
        for a, b in zip(mine.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        for trait in ("supports_jit", "supports_masking", "trainable", "dtype", "compute_dtype", "input_spec"):
            self.assertEqual(repr(getattr(mine, trait)), repr(getattr(theirs, trait)))

    @parameterized.expand(CASES)
    def test_values_and_gradients(self, name, arguments):
        theirs, mine = pair(name, {**arguments, "activation": None})
        x = images(2, 9, 8, 3)
        theirs(x), mine(x)
        whole_weights(theirs, mine)

        def cotangent(shape):
            return images(*shape, seed=2)

        expected = step(theirs, x, cotangent)
        for jit in (False, True) if name == "DepthwiseConv2D" else (False,):  # each compilation is a second
            run = tf.function(lambda: step(mine, x, cotangent), jit_compile=jit)
            for actual, wanted in zip(run(), expected, strict=True):
                np.testing.assert_array_equal(actual, wanted)

    def test_values_see_a_fault(self):
        theirs, mine = pair(*CASES[1])
        x = images(2, 9, 8, 3)
        theirs(x), mine(x)
        whole_weights(theirs, mine)
        mine.padding = ((0, 2), (1, 1))  # where "same" with stride 2 pads (1, 1) and (0, 1)
        self.assertFalse(np.array_equal(mine(x), theirs(x)))

    @parameterized.expand(
        [
            (name, dims, data_format, padding, strides)
            for name, _ in LAYERS
            for dims in ((None, None), (9, None), (9, 8))
            for data_format in ("channels_last", "channels_first")
            for padding in ("valid", "same")
            for strides in ((1, 1), (2, 3))
        ]
    )
    def test_symbolic_and_eager_shapes(self, name, dims, data_format, padding, strides):
        arguments = {**dict(LAYERS)[name], "data_format": data_format, "padding": padding, "strides": strides}
        theirs, mine = pair(name, arguments)
        last = data_format == "channels_last"
        symbolic = keras.Input((*dims, 3) if last else (3, *dims))
        output = mine(symbolic)
        self.assertEqual(output.shape, theirs(symbolic).shape)
        self.assertEqual(mine.compute_output_shape(symbolic.shape), output.shape)
        actual = keras.Model(symbolic, output)(images(2, 9, 8, 3) if last else images(2, 3, 9, 8)).shape
        self.assertEqual(len(actual), 4)
        for known, size in zip(output.shape, actual, strict=True):
            self.assertIn(known, (None, size))

    @parameterized.expand(
        [
            ("DepthwiseConv2D", {"kernel_size": 0}, None),
            ("DepthwiseConv2D", {"kernel_size": (1, 2, 3)}, None),
            ("DepthwiseConv2D", {"kernel_size": 3, "strides": 0}, None),
            ("DepthwiseConv2D", {"kernel_size": 3, "dilation_rate": -1}, None),
            ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 0}, None),
            ("DepthwiseConv2D", {"kernel_size": 3, "padding": "causal"}, None),
            ("DepthwiseConv2D", {"kernel_size": 3, "data_format": "last"}, None),
            ("DepthwiseConv2D", {"kernel_size": 3, "activation": "none such"}, None),
            ("DepthwiseConv2D", {"kernel_size": 3, "colour": "blue"}, None),
            ("DepthwiseConv2D", {"kernel_size": 5}, (1, 3, 8, 2)),
            ("DepthwiseConv2D", {"kernel_size": 3}, (8, 8, 2)),
            ("DepthwiseConv2D", {"kernel_size": 3}, (1, 8, 8, 8, 2)),
            ("SeparableConv2D", {"filters": 0, "kernel_size": 3}, None),
            ("SeparableConv2D", {"filters": 2, "kernel_size": 5}, (1, 3, 8, 2)),
        ]
    )
    def test_errors(self, name, arguments, shape):
        if OLD_KERAS and shape:
            self.skipTest(f"Keras {keras.__version__} leaves this check to the kernels")
        raised = []
        for module in (keras.layers, ours):
            with self.assertRaises(Exception) as caught:
                layer = getattr(module, name)(name="same", **arguments)
                layer(images(*shape))
            raised.append(caught.exception)
        self.assertIs(type(raised[1]), type(raised[0]))
        self.assertEqual(str(raised[1]), str(raised[0]))

    def test_another_channel_count_after_build(self):
        for layer in pair("DepthwiseConv2D", {"kernel_size": 3}):
            layer.build((None, 8, 8, 3))
            with self.assertRaisesRegex(ValueError, "axis -1"):
                layer(images(1, 8, 8, 4))

    @parameterized.expand(
        [
            ("DepthwiseConv2D", {"kernel_size": 5}, (8, 9, 3), (3, 6, 3)),
            ("DepthwiseConv2D", {"kernel_size": 5, "data_format": "channels_first"}, (3, 8, 9), (3, 6, 3)),
            ("SeparableConv2D", {"filters": 2, "kernel_size": 5}, (8, 9, 3), (3, 6, 3)),
            ("Conv2D", {"filters": 6, "kernel_size": 5, "groups": 3}, (8, 9, 3), (3, 6, 3)),
        ]
    )
    def test_a_later_image_that_leaves_no_output(self, name, arguments, shape, small):
        if OLD_KERAS:
            self.skipTest(f"Keras {keras.__version__} leaves this check to the kernels")
        layer = getattr(ours, name)(**arguments)
        layer(images(1, *shape))
        for call in (layer, tf.function(layer), tf.function(layer, jit_compile=True)):
            with self.assertRaisesRegex(ValueError, "Computed output size would be"):
                call(images(1, *small))

    def test_no_image_may_be_of_any_size(self):
        layer = ours.DepthwiseConv2D(5)
        layer(images(1, 8, 9, 3))
        self.assertEqual(layer(images(0, 3, 6, 3)).shape, (0, 0, 2, 3))

    def test_attributes_set_to_one_number(self):
        layers = pair("DepthwiseConv2D", {"kernel_size": 3, "padding": "same"})
        x = images(1, 8, 7, 3)
        for layer in layers:
            layer(x)
            layer.strides = 2
        layers[1].set_weights(layers[0].get_weights())
        np.testing.assert_allclose(layers[1](x), layers[0](x), rtol=1e-5, atol=1e-5)

    @parameterized.expand(LAYERS)
    def test_keras_layer_checks(self, name, needed):
        """What Keras checks of each of its own layers: configuration, building, symbolic and eager calls, training."""
        cls, x = getattr(ours, name), images(2, 9, 8, 3)
        layer = cls(**needed)
        revived = [cls.from_config(layer.get_config())]
        revived.append(keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)))
        for other in revived:
            self.assertEqual(other.get_config(), layer.get_config())
            self.assertEqual(set(dir(other)) ^ set(dir(layer)), set())
        layer.build(x.shape)
        self.assertTrue(layer.built)
        symbolic = cls(**needed)(keras.KerasTensor(x.shape))
        eager = cls(**needed)(x)
        self.assertEqual((symbolic.shape, symbolic.dtype), (tuple(eager.shape), eager.dtype.name))
        model = keras.Sequential([layer])
        before = [w.numpy() for w in layer.trainable_weights]
        model.compile("sgd", "mse", jit_compile=True)
        model.fit(x, images(*eager.shape, seed=1), epochs=1, verbose=0)
        for old, new in zip(before, layer.trainable_weights, strict=True):
            self.assertFalse(np.array_equal(old, new))

    @parameterized.expand(itertools.product([n for n, _ in LAYERS], ["mixed_float16", "mixed_bfloat16", "float64"]))
    def test_dtype_policies(self, name, policy):
        theirs, mine = pair(name, {**dict(LAYERS)[name], "dtype": policy})
        x = images(2, 9, 8, 3)
        outputs = [layer(x) for layer in (theirs, mine)]
        whole_weights(theirs, mine)
        outputs = [layer(x) for layer in (theirs, mine)]
        self.assertEqual(outputs[1].dtype, outputs[0].dtype)
        self.assertEqual(mine.compute_output_spec(keras.KerasTensor(x.shape)).dtype, outputs[1].dtype.name)
        self.assertEqual([w.dtype for w in mine.weights], [w.dtype for w in theirs.weights])
        np.testing.assert_array_equal(tf.cast(outputs[1], tf.float64), tf.cast(outputs[0], tf.float64))

    @parameterized.expand(LAYERS)
    def test_inputs_that_are_no_tensors(self, name, needed):
        """A variable, of which a layer of somebody's own makes an input; arrays, where `__call__` is passed by."""
        x = images(2, 7, 7, 3)
        for policy in ("float32", "mixed_bfloat16"):
            theirs, mine = pair(name, {**needed, "dtype": policy})
            for layer in (theirs, mine):
                layer.build(x.shape)
            whole_weights(theirs, mine)
            given = [keras.Variable(x), *([x] if policy == "float32" else [])]
            for inputs in given:
                np.testing.assert_array_equal(mine(inputs), theirs(inputs))
                np.testing.assert_array_equal(mine.call(inputs), theirs.call(inputs))
                found, expected = (layer.stateless_call(layer.variables, [], inputs)[0] for layer in (mine, theirs))
                np.testing.assert_array_equal(found, expected)

    def test_masks_are_treated_alike(self):
        for layer in pair("DepthwiseConv2D", {"kernel_size": 3}):
            self.assertFalse(layer.supports_masking)
            masked = keras.layers.Masking()(tf.constant(images(2, 9, 8, 3)))
            with self.assertWarnsRegex(UserWarning, "does not support mask"):
                layer(masked)

    @parameterized.expand(LAYERS)
    def test_weight_files_interchange(self, name, needed):
        models = [keras.Sequential([keras.Input((9, 8, 3)), layer]) for layer in pair(name, needed)]
        for source, target in (models, models[::-1]):
            whole_weights(source)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "model.weights.h5"
                source.save_weights(file)
                target.set_weights([w * 0 for w in target.get_weights()])
                target.load_weights(file)
            for a, b in zip(source.get_weights(), target.get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)

    def test_keras_file_of_ours_loads_as_keras_s(self):
        """Without this package: Keras's layers take the configs, under the names that ours are registered by."""
        order = ("DepthwiseConv2D", "Conv2D", "SeparableConv2D")
        layers = [getattr(ours, name)(**dict(LAYERS)[name]) for name in order]
        model = keras.Sequential([keras.Input((9, 8, 3)), *layers])
        load = (
            "import sys, keras, numpy\n"
            f"names = {order}\n"
            "custom = {'depthwise>' + name: getattr(keras.layers, name) for name in names}\n"
            "model = keras.saving.load_model(sys.argv[1], custom_objects=custom)\n"
            "assert 'depthwise' not in sys.modules\n"
            "assert tuple(type(layer).__name__ for layer in model.layers) == names\n"
            "numpy.save(sys.argv[3], model.predict(numpy.load(sys.argv[2]), verbose=0))\n"
        )
        x = images(2, 9, 8, 3)
        whole_weights(model)
        with tempfile.TemporaryDirectory() as folder:
            files = [str(Path(folder) / name) for name in ("model.keras", "x.npy", "y.npy")]
            model.save(files[0])
            np.save(files[1], x)
            subprocess.run([sys.executable, "-c", load, *files], check=True)
            np.testing.assert_array_equal(np.load(files[2]), model.predict(x, verbose=0))

    @parameterized.expand(LAYERS)
    def test_keras_file_of_keras_s_loads_and_converts(self, name, needed):
        """custom_objects has no say here: Keras consults it only for names that are not its own."""
        theirs = pair(name, needed)[0]
        model = keras.Sequential([keras.Input((9, 8, 3)), theirs])
        whole_weights(model)
        x = images(2, 9, 8, 3)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.keras"
            model.save(file)
            loaded = keras.saving.load_model(file, custom_objects={name: getattr(ours, name)})
        self.assertIs(type(loaded.layers[0]), type(theirs))
        converted = ours.convert(loaded)
        self.assertIs(type(converted.layers[0]), getattr(ours, name))
        np.testing.assert_array_equal(converted(x), model(x))
