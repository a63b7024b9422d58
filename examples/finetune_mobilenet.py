"""Converts a MobileNetV2 and fine-tunes it on real digits; with XLA (`finetune_mobilenet.py --jit`) if asked to.

The network starts from random weights, so that nothing is downloaded: pass weights="imagenet" for a real start.
"""

import sys
import time

import keras
import numpy as np
from depthwise.layers import DepthwiseConv2D, convert
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def digits() -> list[np.ndarray]:
    """Digits as small RGB photographs: images of shape (n, 32, 32, 3) in [-1, 1], and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 8 - 1).reshape(-1, 8, 8, 1).repeat(4, 1).repeat(4, 2).repeat(3, 3).astype("float32")
    parts: list[np.ndarray] = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return parts


def main() -> None:
    keras.utils.set_random_seed(0)
    x, x_test, y, y_test = digits()
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    converted = convert(model)
    count = sum(isinstance(layer, DepthwiseConv2D) for layer in converted.layers)
    difference = np.abs(converted(x_test) - model(x_test)).max()
    print(f"{count} layers converted; predictions differ by {difference:.1e}")

    for layer in converted.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # the default follows over thousands of steps, this run has a few hundred
    start = time.perf_counter()
    jit = "--jit" in sys.argv
    converted.compile(
        keras.optimizers.Adam(0.002), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=jit
    )
    converted.fit(x, y, batch_size=64, epochs=8, verbose=2)
    accuracy = converted.evaluate(x_test, y_test, verbose=0)[1]
    print(f"fine-tuned in {time.perf_counter() - start:.0f} s: test accuracy {accuracy:.1%}")

    back = convert(converted, to="keras")
    back.compile(jit_compile=False)
    converted.compile(jit_compile=False)  # XLA rounds otherwise, and takes long over Keras's layers
    same = np.array_equal(back.predict(x_test, verbose=0), converted.predict(x_test, verbose=0))
    print(f"converted back to Keras's layers: predictions {'identical' if same else 'differ'}")
    if not same:
        sys.exit("Keras's layers should predict the same")
    if accuracy <= 0.8:
        sys.exit("the fine-tuned network should do better")


if __name__ == "__main__":
    main()
