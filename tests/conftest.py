"""Two logical CPU devices, for MirroredStrategy: they can only be made before TensorFlow is used."""

import tensorflow as tf


def pytest_configure() -> None:
    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
