"""What the targets say about the TensorFlow that they run on."""

import unittest

import tensorflow as tf
from depthwise.conformance.targets.tensorflow import uses_onednn
from depthwise.ops.lowerings.native.kernels import onednn_runs_grouped_convolutions


class VersionsTest(unittest.TestCase):
    @unittest.skipIf(tf.config.list_physical_devices("GPU"), "with a GPU, the op does not ask for oneDNN")
    def test_onednn_is_where_its_kernels_run(self):
        # Asked of a private module, which a release may move: the kernels themselves tell.
        self.assertEqual(uses_onednn(), onednn_runs_grouped_convolutions())
