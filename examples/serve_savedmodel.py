"""Saves, loads and exports a network, and serves the SavedModel with plain TensorFlow: no Keras code, no depthwise."""

import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from depthwise.layers import DepthwiseConv2D
from sklearn.datasets import load_digits

SERVER = """
import sys
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
images = tf.constant(np.load(sys.argv[2]))
with tf.GradientTape() as tape:
    tape.watch(images)
    scores = model.serve(images)
    best = tf.reduce_max(scores, axis=1)
saliency = tape.gradient(best, images)  # which pixels speak for the predicted digit
np.savez(sys.argv[3], scores=scores, saliency=saliency)
print("served", len(scores), "images; depthwise imported:", "depthwise" in sys.modules)
"""


def main() -> None:
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            DepthwiseConv2D(3, padding="same", depth_multiplier=16, activation="relu"),
            DepthwiseConv2D(3, strides=(2, 1), padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(images, labels, epochs=5, verbose=2)
    expected = model.predict(images, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        saved, exported, data, results = (str(Path(folder) / name) for name in ("m.keras", "m", "x.npy", "y.npz"))
        model.save(saved)
        loaded = keras.saving.load_model(saved)
        loaded.export(exported, verbose=False)
        np.save(data, images)
        subprocess.run([sys.executable, "-c", SERVER, exported, data, results], check=True)
        served = dict(np.load(results))
    agreement = np.mean(served["scores"].argmax(1) == expected.argmax(1))
    print(f"the server's digits agree with the model's in {agreement:.1%} of the images")
    sys.exit(0 if agreement == 1 and np.abs(served["saliency"]).max() > 0 else "the SavedModel serves something else")


if __name__ == "__main__":
    main()
