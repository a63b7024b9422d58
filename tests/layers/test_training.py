"""Training at scale: several devices, several workers, interrupted and resumed."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from depthwise.layers import DepthwiseConv2D, SeparableConv2D

SCRIPT = Path(__file__).parent / "train_digits.py"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("localhost", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def train(strategy, folder, processes=1):
    """What each process of a training run reports."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(processes)]}
    started, files = [], []
    for index in range(processes):
        place = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        environment = {**os.environ, "TF_CONFIG": place} if processes > 1 else os.environ
        files.append(Path(folder) / f"{strategy}{index}.json")
        command = [sys.executable, str(SCRIPT), strategy, str(files[-1])]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    output = [process.communicate(timeout=300)[0] for process in started]
    for process, text in zip(started, output, strict=True):
        if process.returncode:
            raise AssertionError(text.decode()[-3000:])
    return [json.loads(file.read_text()) for file in files]


class DistributionTest(unittest.TestCase):
    @pytest.mark.slow
    def test_two_devices_and_two_workers_train_like_one(self):
        with tempfile.TemporaryDirectory() as folder:
            (one,) = train("one", folder)
            others = train("mirrored", folder) + train("workers", folder, processes=2)
        self.assertLess(one["losses"][-1], 0.9 * one["losses"][0])
        for other in others:
            self.assertEqual(other["replicas"], 2)
            # Keras keeps the mean of ten batches' losses in float32. Its fit does so in both runs.
            np.testing.assert_allclose(other["losses"], one["losses"], rtol=2 * 12 * 2.0**-24)
            # Weights are float64: what is not rounding (2**-53, through thirty steps) shows far above 2**-24.
            for a, b in zip(other["weights"], one["weights"], strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=2.0**-24)


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            DepthwiseConv2D(3, padding=((1, 1), (1, 1)), depth_multiplier=2, activation="relu"),
            keras.layers.BatchNormalization(),
            SeparableConv2D(4, 3, strides=2),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def batches():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(48, 8, 8, 2)).astype("float32"), draw.normal(size=(48, 3)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(16)


class Interrupted(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if self.model.optimizer.iterations == 7:  # in the third epoch of three batches
            raise KeyboardInterrupt


class CheckpointTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.uninterrupted = network()
        cls.uninterrupted.fit(batches(), epochs=4, verbose=0)

    def assert_same_state(self, a, b):
        self.assertEqual(int(a.optimizer.iterations), int(b.optimizer.iterations))
        for one, other in zip(a.weights + a.optimizer.variables, b.weights + b.optimizer.variables, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_backup_and_restore(self):
        with tempfile.TemporaryDirectory() as folder:
            backup = keras.callbacks.BackupAndRestore(folder)
            with self.assertRaises(KeyboardInterrupt):
                network().fit(batches(), epochs=4, verbose=0, callbacks=[backup, Interrupted()])
            resumed = network()
            backup = keras.callbacks.BackupAndRestore(folder)
            history = resumed.fit(batches(), epochs=4, verbose=0, callbacks=[backup])
        self.assertEqual(history.epoch, [2, 3])
        self.assert_same_state(resumed, self.uninterrupted)

    def test_tensorflow_checkpoint(self):
        with tempfile.TemporaryDirectory() as folder:
            first = network()
            first.fit(batches(), epochs=2, verbose=0)
            path = tf.train.Checkpoint(model=first, optimizer=first.optimizer).save(f"{folder}/digits")
            resumed = network()
            resumed.optimizer.build(resumed.trainable_variables)
            tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(path).assert_consumed()
            self.assert_same_state(resumed, first)
            resumed.fit(batches(), epochs=2, verbose=0)
        self.assert_same_state(resumed, self.uninterrupted)
