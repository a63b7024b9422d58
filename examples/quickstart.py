"""Trains a depthwise-separable network on real digits, saves it, serves it from a fresh process, checks the op.

Run it as it stands; arguments go to the conformance run, for example `quickstart.py --max-cases 50`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from depthwise.layers import DepthwiseConv2D
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SERVE = """
import sys
import keras
import numpy as np
import depthwise.layers  # registers the layer for loading

model_file, images_file, predictions_file = sys.argv[1:]
model = keras.saving.load_model(model_file)
np.save(predictions_file, model.predict(np.load(images_file), verbose=0))
"""


def separable(filters: int, strides: int = 1) -> list[keras.Layer]:
    """A depthwise-separable block: per-channel 3x3 taps, then a 1x1 mix of channels."""
    return [
        DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False),
        keras.layers.Conv2D(filters, 1, use_bias=False),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
    ]


def main() -> None:
    keras.utils.set_random_seed(0)
    digits, labels = load_digits(return_X_y=True)
    images = (digits / 16).reshape(-1, 8, 8, 1).astype("float32")
    x, x_test, y, y_test = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)

    blocks = [*separable(32), *separable(64, strides=2), *separable(64)]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(16, 3, padding="same"), *blocks, *head])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.005), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=20, verbose=2)
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    print(f"test accuracy {accuracy:.1%}")
    if accuracy <= 0.97:
        sys.exit("test accuracy should be above 97%")

    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("digits.keras", "images.npy", "predictions.npy")]
        model.save(files[0])
        np.save(files[1], x_test)
        subprocess.run([sys.executable, "-c", SERVE, *files], check=True)
        if not np.array_equal(np.load(files[2]), model.predict(x_test, verbose=0)):
            sys.exit("a fresh process predicts something else")
    print("saved, loaded in a fresh process: identical predictions")

    run = [sys.executable, "-m", "depthwise.conformance", "run", "--level", "quick", *sys.argv[1:]]
    sys.exit(subprocess.run(run).returncode)


if __name__ == "__main__":
    main()
