"""Models shipped elsewhere: SavedModel, LiteRT and ONNX, each against the original or the oracle."""

import collections
import contextlib
import importlib.util
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
from depthwise.layers import Conv2D, DepthwiseConv2D, SeparableConv2D, convert
from depthwise.ops.lowerings.native.kernels import onednn_runs_grouped_convolutions
from parameterized import parameterized
from sklearn.datasets import load_digits

SERVE = """
import sys
import numpy as np
import tensorflow as tf

folder, results, lowering = sys.argv[1:]
model = tf.saved_model.load(folder)
assert "depthwise" not in sys.modules
x = tf.constant(np.load(folder + "/x.npy"))
with tf.GradientTape() as tape:
    tape.watch(x)
    y = model.serve(x)
    loss = tf.reduce_sum(y * np.load(folder + "/cotangent.npy"))
gradients = tape.gradient(loss, [x, *model.trainable_variables])
compiled = tf.function(model.serve, jit_compile=True)
if lowering == "portable":
    assert "convolution(" not in compiled.experimental_get_compiler_ir(x)(stage="optimized_hlo")
compiled = compiled(x)
np.savez(results, y, compiled, *gradients)
"""

CASES = [
    ("same", {"padding": "same"}),
    ("valid_multiplier", {"depth_multiplier": 2}),
    ("strides", {"padding": "same", "strides": 2}),
    ("dilations", {"padding": "same", "dilation_rate": 2}),
    ("dilated_far", {"padding": "same", "dilation_rate": 6}),
    ("both", {"padding": "same", "strides": 2, "dilation_rate": 2}),
    ("explicit", {"padding": ((2, 0), (1, 3))}),
    ("unequal_strides", {"padding": "same", "strides": (1, 2)}),
]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def whole(*shape, seed=0):
    """Whole numbers: sums of their products are exact in float32, whatever the order."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype("float32")


def one_layer(batch_size=None, image=(9, 8, 4), **arguments):
    """A model of one linear layer, with random weights."""
    keras.utils.set_random_seed(0)
    layer = DepthwiseConv2D(3, use_bias=False, depthwise_initializer="random_normal", **arguments)
    return keras.Sequential([keras.Input(image, batch_size=batch_size), layer])


def geometry_of(layer):
    """A layer's geometry, as the oracle takes it."""
    padding = layer.padding.upper() if isinstance(layer.padding, str) else layer.padding
    return {"strides": layer.strides, "padding": padding, "dilations": layer.dilation_rate}


def in_bounds(model, x, actual):
    """The largest error of a one-layer model's output, in units of the bound that rounding allows."""
    layer = model.layers[0]
    arrays, geometry = (x, layer.kernel.numpy()), geometry_of(layer)
    expected = oracle.value(*arrays, **geometry)
    magnitude, terms = (f(oracle.value, *arrays, **geometry) for f in (oracle.magnitude, oracle.terms))
    bound = error_bound(expected, magnitude, terms, "float32")
    return error_in_bounds(actual, expected, bound, "float32").max()


def quantisation_bound(model, x, x_step, w_steps, y_step):
    """How far a fully quantised one-layer model may lie from the oracle, per element.

    A tensor quantised with step s is off by s/2, and by s where its zero point was moved to a whole number at the end
    of its range; weights have no zero point, and padding is exact. So sum (x + dx)(w + dw) is off by at most
    sum |x| s_w/2 + sum |w| s_x + sum s_x s_w/2, and storing it adds s_y.
    """
    layer = model.layers[0]
    kernel, geometry = layer.kernel.numpy(), geometry_of(layer)
    of_weights = oracle.value(np.abs(x) + x_step, np.ones_like(kernel), **geometry) * w_steps / 2
    of_inputs = oracle.value(np.ones_like(x), np.abs(kernel), **geometry) * x_step
    return of_weights + of_inputs + y_step


class SavedModelTest(unittest.TestCase):
    @parameterized.expand(["auto", "portable"])
    def test_served_differentiated_and_compiled_without_this_package(self, lowering):
        inputs = keras.Input((9, 8, 4))
        x = DepthwiseConv2D(3, padding="same", activation="relu")(inputs)
        x = DepthwiseConv2D(3, 2, "same", 2, dilation_rate=2)(x)
        x = Conv2D(8, 3, padding="same", groups=8)(x)
        x = SeparableConv2D(3, 3, padding="same")(x)
        model = keras.Model(inputs, DepthwiseConv2D(2, (1, 2), ((1, 0), (0, 1)))(x))
        model = convert(model, lowering=lowering)
        model.set_weights([whole(*w.shape, seed=i) for i, w in enumerate(model.weights)])
        x = tf.constant(whole(2, 9, 8, 4))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x)
            cotangent = whole(*y.shape, seed=1)
            loss = tf.reduce_sum(y * cotangent)
        gradients = tape.gradient(loss, [x, *model.trainable_variables])
        with tempfile.TemporaryDirectory() as folder:
            model.export(folder, verbose=False)
            np.save(Path(folder) / "x.npy", x)
            np.save(Path(folder) / "cotangent.npy", cotangent)
            results = str(Path(folder) / "results.npz")
            subprocess.run([sys.executable, "-c", SERVE, folder, results, lowering], check=True)
            found = list(np.load(results).values())
        for actual, expected in zip(found, [y, y, *gradients], strict=True):
            np.testing.assert_array_equal(actual, expected)


def operations(content):
    """The interpreter of a LiteRT model, and how often each operation stands in the file."""
    interpreter = tf.lite.Interpreter(model_content=content, experimental_op_resolver_type=RESOLVER)
    counts = collections.Counter(detail["op_name"] for detail in interpreter._get_ops_details())
    return interpreter, counts


# Without delegates, so that the operations listed are those of the file.
RESOLVER = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def invoke(interpreter, x):
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(wanted["index"])


# With oneDNN, or without it, or in both builds, an island would compute them.
LARGE = [
    ("dilated", lambda: DepthwiseConv2D(3, padding="same", dilation_rate=12), 256),
    ("multiplier", lambda: DepthwiseConv2D(3, padding="same", depth_multiplier=2), 128),
    ("separable", lambda: SeparableConv2D(8, 3, padding="same", dilation_rate=12), 128),
    ("grouped", lambda: Conv2D(192, 3, padding="same", groups=96), 96),
]
ONEDNN = onednn_runs_grouped_convolutions()
# TensorFlow has unequal strides in its grouped convolution alone, and that in oneDNN alone.
KERNELS = {name: "CONV_2D" if ONEDNN and name == "unequal_strides" else "DEPTHWISE_CONV_2D" for name, _ in CASES}
# These are the plain convolution between ops that take the image apart and put it together.
PHASED = ("dilated_far",) if ONEDNN else ("both", "unequal_strides")


class IslandTest(unittest.TestCase):
    @parameterized.expand([(False,), (True,)])
    def test_islands_are_left_to_training(self, training):
        layer = DepthwiseConv2D(3, padding="same", dilation_rate=12)
        image = tf.TensorSpec([1, 70, 70, 256])
        layer.build(image.shape)

        @tf.function
        def run(x):
            with tf.GradientTape() if training else contextlib.nullcontext():
                return layer(x)

        functions = run.get_concrete_function(image).graph.as_graph_def().library.function
        self.assertEqual(any("_XlaMustCompile" in function.attr for function in functions), training)

    # Where native refuses a gradient that nobody wants here.
    @parameterized.expand([(2, 17), (1, 65)])
    def test_what_native_cannot_do_is_predicted_all_the_same(self, strides, rate):
        layer = DepthwiseConv2D(3, strides=strides, padding="same", dilation_rate=rate)
        model = keras.Sequential([keras.Input((128, 128, 32), batch_size=8), layer])
        x = draw(8, 128, 128, 32)
        self.assertLessEqual(in_bounds(model, x, model.predict(x, batch_size=8, verbose=0)), 1)


class LiteRTTest(unittest.TestCase):
    # Portable holds both lowerings until the converter has decided which one counts.
    @parameterized.expand(
        [(*case, batch, lowering) for case in CASES for batch in (None, 1) for lowering in ("auto", "portable")]
    )
    def test_float(self, name, arguments, batch, lowering):
        model = one_layer(batch, **arguments, lowering=lowering)
        x = draw(1, 9, 8, 4)
        interpreter, counts = operations(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        self.assertLessEqual(in_bounds(model, x, invoke(interpreter, x)), 1)
        self.assertEqual(counts[KERNELS[name]], 1)
        if batch == 1 and name not in PHASED:
            self.assertEqual(counts["PAD"] + counts["PADV2"] + 1, counts.total(), counts)

    @parameterized.expand(LARGE)
    def test_images_so_large_that_training_takes_an_island(self, _, layer, channels):
        model = keras.Sequential([keras.Input(batch_shape=(1, 70, 70, channels)), layer()])
        _, counts = operations(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        self.assertEqual(counts["DEPTHWISE_CONV_2D"], 1, counts)
        self.assertEqual(counts["MUL"], 0, counts)

    @parameterized.expand(CASES)
    def test_full_integer(self, name, arguments):
        model = one_layer(1, **arguments)
        samples = [draw(1, 9, 8, 4, seed=seed) for seed in range(20)]
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample] for sample in samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        interpreter, counts = operations(converter.convert())
        self.assertEqual(counts[KERNELS[name]], 1)
        interpreter.allocate_tensors()
        integers = [d for d in interpreter.get_tensor_details() if d["dtype"] is np.int8]
        steps = {d["name"]: d["quantization_parameters"]["scales"] for d in integers}
        (w_steps,) = (step for step in steps.values() if len(step) > 1)
        (y_step,) = (step for name, step in steps.items() if name.startswith("StatefulPartitionedCall"))
        kernel, geometry = model.layers[0].kernel.numpy(), geometry_of(model.layers[0])
        for x in samples[:3]:
            error = np.abs(invoke(interpreter, x) - oracle.value(x, kernel, **geometry))
            bound = quantisation_bound(model, x, steps["tfl.quantize"], w_steps, y_step)
            self.assertLessEqual((error / bound).max(), 1)
            self.assertGreater((error / bound).max(), 0.01)  # the bound is near enough to be worth something

    def test_digits_network(self):
        """The quickstart's network on real images, as float and as integers."""
        images, labels = digits()
        model = trained_on_digits(images, labels)
        expected = model.predict(images, verbose=0)
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        interpreter, counts = operations(converter.convert())
        self.assertEqual(counts["DEPTHWISE_CONV_2D"], 2)
        np.testing.assert_array_equal(invoke(interpreter, images).argmax(1), expected.argmax(1))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in images[:100])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        interpreter, counts = operations(converter.convert())
        self.assertEqual(counts["DEPTHWISE_CONV_2D"], 2)
        scale, zero = interpreter.get_input_details()[0]["quantization"]
        quantised = np.clip(np.round(images / scale) + zero, -128, 127).astype(np.int8)
        agreement = np.mean(invoke(interpreter, quantised).argmax(1) == expected.argmax(1))
        self.assertGreater(agreement, 0.98)


def digits():
    """The first 600 of scikit-learn's handwritten digits: images of shape (600, 8, 8, 1), and labels."""
    images, labels = load_digits(return_X_y=True)
    return (images[:600] / 16).reshape(-1, 8, 8, 1).astype("float32"), labels[:600]


def trained_on_digits(images, labels):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            DepthwiseConv2D(3, padding="same", depth_multiplier=16, activation="relu"),
            SeparableConv2D(32, 3, strides=2, padding="same"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(images, labels, batch_size=50, epochs=6, verbose=0)
    return model


@unittest.skipUnless(
    importlib.util.find_spec("tf2onnx") and importlib.util.find_spec("onnxruntime"),
    "needs tf2onnx and onnxruntime: pip install 'depthwise[onnx]'",
)
class OnnxTest(unittest.TestCase):
    @parameterized.expand(CASES)
    def test_onnxruntime(self, _, arguments):
        import onnx
        import onnxruntime

        model = one_layer(**arguments)
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "model.onnx")
            model(draw(1, 9, 8, 4))  # Keras exports to ONNX what has been called
            model.export(file, format="onnx", verbose=False)
            nodes = collections.Counter(node.op_type for node in onnx.load(file).graph.node)
            session = onnxruntime.InferenceSession(file)
        self.assertEqual(nodes["Conv"], 1)
        for batch in (1, 3):
            x = draw(batch, 9, 8, 4)
            (actual,) = session.run(None, {session.get_inputs()[0].name: x})
            self.assertLessEqual(in_bounds(model, x, actual), 1)

    # Without what ONNX itself has no word for, as long as it does not know how far to pad.
    @parameterized.expand([(n, a) for n, a in CASES if a.get("padding") != "same" or "dilation_rate" not in a])
    def test_images_of_any_size(self, _, arguments):
        """What ONNX divides it rounds towards zero, TensorFlow downwards."""
        import onnxruntime

        model = one_layer(image=(None, None, 4), **arguments)
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "model.onnx")
            model(draw(1, 9, 8, 4))
            model.export(file, format="onnx", verbose=False)
            session = onnxruntime.InferenceSession(file)
        for height, width in ((9, 8), (8, 9), (5, 6)):
            x = draw(2, height, width, 4)
            (actual,) = session.run(None, {session.get_inputs()[0].name: x})
            self.assertLessEqual(in_bounds(model, x, actual), 1)

    @parameterized.expand(LARGE)
    def test_images_so_large_that_training_takes_an_island(self, _, layer, channels):
        import onnxruntime

        x = whole(1, 70, 70, channels)
        model = keras.Sequential([keras.Input(batch_shape=x.shape), layer()])
        model.set_weights([whole(*weights.shape) for weights in model.get_weights()])
        expected = model(x).numpy()
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "model.onnx")
            signature = [tf.TensorSpec(x.shape)]
            model.export(file, format="onnx", input_signature=signature, verbose=False)
            session = onnxruntime.InferenceSession(file)
        (actual,) = session.run(None, {session.get_inputs()[0].name: x})
        np.testing.assert_array_equal(actual, expected)
