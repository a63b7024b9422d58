"""Random calls and their gradients under glibc's own checks: no kernel that they reach writes beyond its tensors.

TensorFlow's do for some arguments, such as oneDNN's filter gradient of one channel, a 1x1 filter and unequal strides.
Nothing is wrong then but memory that is another's, and the process dies later, elsewhere.
"""

import os
import subprocess
import sys
import textwrap
import unittest

import pytest

CALLS = textwrap.dedent("""
    import sys

    import numpy as np
    import tensorflow as tf
    from depthwise.ops import depthwise_conv2d

    draw = np.random.default_rng(3)

    def integers(least, most, count=2):
        return draw.integers(least, most + 1, count).tolist()

    for number in range(int(sys.argv[1])):
        channels, multiplier = int(draw.choice([1, 2, 3, 16])), int(draw.choice([1, 1, 2, 4]))
        shape = [*integers(1, 3, 1), *integers(1, 30), channels]
        kernel = [1, 1] if draw.random() < 0.3 else integers(1, 5)
        strides, rates = integers(1, 3), [1, 1] if draw.random() < 0.6 else integers(1, 3)
        padding = [[0, 0], integers(0, 5), integers(0, 5), [0, 0]]
        padding = [padding, "SAME", "VALID"][number % 3]

        def gradients(x, w):
            with tf.GradientTape() as tape:
                tape.watch((x, w))
                y = depthwise_conv2d(x, w, [1, *strides, 1], padding, dilations=rates)
            return tape.gradient(y, (x, w))

        mode = ["eager", "graph"][number % 10 == 9]
        print(mode, shape, kernel, multiplier, strides, rates, padding, flush=True)
        call = gradients if mode == "eager" else tf.function(gradients, autograph=False)
        for _ in range(3):
            call(tf.ones(shape), tf.ones([*kernel, channels, multiplier]))
""")


@unittest.skipUnless(sys.platform == "linux", "the checks are glibc's")
class MemoryTest(unittest.TestCase):
    def run_checked(self, calls):
        checks = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
        command = [sys.executable, "-c", CALLS, str(calls)]
        ran = subprocess.run(command, env=os.environ | checks, capture_output=True, text=True)
        if "cannot be preloaded" in ran.stderr:
            self.skipTest("this system has no libc_malloc_debug.so.0 (glibc 2.34 or later has)")
        lines = ran.stdout.splitlines()
        self.assertEqual(ran.returncode, 0, f"after {len(lines)} calls, at {lines[-1:]}: {ran.stderr[-1000:]}")
        self.assertEqual(len(lines), calls)

    def test_calls(self):
        self.run_checked(300)

    @pytest.mark.slow
    def test_many_calls(self):
        self.run_checked(10_000)
