"""A segmentation head of dilated, strided, row-causal depthwise convolutions, which the stock layer cannot express.

A scanner delivers a line of handwritten digits row by row. For every second column of every row the network says which
digit it belongs to, if any, from that row and the rows above alone: explicit padding on top, none below. The width is
halved and the height kept (unequal strides), and taps lie 1, 2 and 3 pixels apart (dilations with strides).
"""

import sys

import keras
import numpy as np
from depthwise.layers import DepthwiseConv2D
from sklearn.datasets import load_digits

BACKGROUND = 10


def lines(count, draw):
    """Lines of four digits: images (count, 8, 32, 1), and the digit at every pixel of every second column."""
    digits, labels = load_digits(return_X_y=True)
    chosen = draw.integers(0, len(digits), (count, 4))
    images = digits.reshape(-1, 8, 8)[chosen].transpose(0, 2, 1, 3).reshape(count, 8, 32, 1) / 16
    owners = labels[chosen][:, None, :].repeat(8, 1).repeat(4, 2)
    return images.astype("float32"), np.where(images[:, :, ::2, 0] > 0.3, owners, BACKGROUND)


def row_causal(rate):
    """3 rows by 5 columns of taps, `rate` pixels apart: centred in the row, ending at it."""
    padding = ((2 * rate, 0), (2 * rate, 2 * rate))
    return DepthwiseConv2D((3, 5), strides=(1, 2), padding=padding, dilation_rate=rate, activation="relu")


def main():
    keras.utils.set_random_seed(0)
    draw = np.random.default_rng(0)
    (x, y), (x_test, y_test) = lines(300, draw), lines(100, draw)
    image = keras.Input((8, 32, 1))
    features = keras.layers.Conv2D(16, 1, activation="relu")(image)
    branches = keras.layers.Concatenate()([row_causal(rate)(features) for rate in (1, 2, 3)])
    mixed = keras.layers.Conv2D(64, 1, activation="relu")(branches)
    model = keras.Model(image, keras.layers.Conv2D(11, 1)(mixed))
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    model.fit(x, y, batch_size=25, epochs=8, verbose=2)
    accuracy, chance = model.evaluate(x_test, y_test, verbose=0)[1], np.mean(y_test == BACKGROUND)
    print(f"{x.shape} to {model.output_shape}: {accuracy:.1%} of the pixels right, background alone {chance:.1%}")

    below = x_test.copy()
    below[:, 5:] = draw.random(below[:, 5:].shape)
    seen = model.predict(below, verbose=0)[:, :5] != model.predict(x_test, verbose=0)[:, :5]
    print("rows below change what is said of rows above:", bool(seen.any()))
    sys.exit(0 if accuracy > chance + 0.03 and not seen.any() else "the head should learn, and look upwards alone")


if __name__ == "__main__":
    main()
