"""Puts this folder on the path, for `results.py`; two logical CPU devices, for MirroredStrategy."""

import tensorflow as tf


def pytest_configure() -> None:
    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
