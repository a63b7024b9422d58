"""Trains a small network on digits under a distribution strategy and writes its losses; run by test_training.py.

    train_digits.py one|mirrored|workers FILE

"workers" reads its place among the processes from TF_CONFIG.
"""

import json
import sys
from pathlib import Path

import keras
import tensorflow as tf
from depthwise.layers import DepthwiseConv2D, SeparableConv2D
from sklearn.datasets import load_digits

BATCH = 40
EPOCHS = 3


def network():
    """Without batch normalisation, whose statistics are each replica's own."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            DepthwiseConv2D(3, padding="same", depth_multiplier=8, activation="tanh"),
            SeparableConv2D(12, 3, strides=2, padding="same", activation="tanh"),
            DepthwiseConv2D(2, dilation_rate=2, padding="same", activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def data():
    images, labels = load_digits(return_X_y=True)
    images = (images[:400] / 16).reshape(-1, 8, 8, 1)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels[:400])).batch(BATCH, drop_remainder=True)
    options = tf.data.Options()
    # Every batch is split into halves, one for each worker.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


def strategy(name):
    if name == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    if name == "workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def fit(model, chosen):
    """The mean loss of each epoch, by model.fit."""
    return model.fit(data(), epochs=EPOCHS, verbose=0).history["loss"]


def loop(model, chosen):
    """The same by hand: Keras 3's fit does not run under MultiWorkerMirroredStrategy (keras issue 20585)."""

    def replica_step(images, labels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(losses(labels, model(images, training=True))) / BATCH
        weights = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    @tf.function
    def step(batch):
        return chosen.reduce(tf.distribute.ReduceOp.SUM, chosen.run(replica_step, args=batch), axis=None)

    losses = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    batches = chosen.experimental_distribute_dataset(data())
    with chosen.scope():
        model.optimizer.build(model.trainable_variables)
    epochs = [[float(step(batch)) for batch in batches] for _ in range(EPOCHS)]
    return [sum(epoch) / len(epoch) for epoch in epochs]


def main(name, file):
    chosen = strategy(name)
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float64")
    with chosen.scope():
        model = network()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    losses = (loop if name == "workers" else fit)(model, chosen)
    weights = [weight.ravel().tolist() for weight in model.get_weights()]
    Path(file).write_text(json.dumps({"replicas": chosen.num_replicas_in_sync, "losses": losses, "weights": weights}))


if __name__ == "__main__":
    main(*sys.argv[1:])
