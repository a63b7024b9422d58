"""Checks an implementation of your own with the conformance suite: this one sums shifted copies of the image.

Run it as it stands; arguments go to the conformance run, for example `check_your_own.py --max-cases 50`.
"""

import subprocess
import sys
from collections.abc import Sequence

import tensorflow as tf


def shifted_sums(
    input: tf.Tensor,
    filter: tf.Tensor,
    strides: Sequence[int],
    padding: str | Sequence[Sequence[int]],
    data_format: str | None = None,
    dilations: Sequence[int] | None = None,
    name: str | None = None,
) -> tf.Tensor:
    """tf.nn.depthwise_conv2d for what it documents; NotImplementedError tells the suite what is left out."""
    if data_format == "NCHW":
        raise NotImplementedError("NHWC alone")
    if not (input.shape[1:].is_fully_defined() and filter.shape.is_fully_defined()):
        raise NotImplementedError("shapes known beforehand alone")
    rate = dilations or (1, 1)
    numbers = len(strides) == 4 and strides[0] == strides[3] == 1 and len(rate) == 2
    sides = padding in ("SAME", "VALID") or (len(padding) == 4 and not any((*padding[0], *padding[3])))
    shapes = len(input.shape) == len(filter.shape) == 4 and input.shape[3] == filter.shape[2]
    kinds = data_format in (None, "NHWC") and input.dtype == filter.dtype
    if not (numbers and sides and shapes and kinds and 0 not in filter.shape[:2]):
        raise ValueError("the arguments must be what tf.nn.depthwise_conv2d documents")
    if not all(1 <= n < 2**31 for n in (*strides, *rate)):
        raise ValueError("strides and dilations must be at least 1, and less than 2**31")
    (kh, kw, channels, multiplier), stride = filter.shape, strides[1:3]
    pads, size = [[0, 0], [0, 0], [0, 0], [0, 0]], []
    for axis, (n, k, s, r) in enumerate(zip(input.shape[1:3], (kh, kw), stride, rate, strict=True), start=1):
        span = (k - 1) * r + 1
        if padding == "SAME":
            total = max((-(-n // s) - 1) * s + span - n, 0)
            pads[axis] = [total // 2, total - total // 2]
        elif not isinstance(padding, str):
            pads[axis] = list(padding[axis])
        size.append(max((n + sum(pads[axis]) - span) // s + 1, 0))
    if 0 in size:
        raise NotImplementedError("an output with pixels alone")
    wide = tf.float32 if input.dtype.size < 4 and input.dtype.is_floating else input.dtype  # for the sums
    image, filter = tf.pad(tf.cast(input, wide), pads), tf.cast(filter, wide)
    output = tf.zeros((tf.shape(input)[0], *size, channels, multiplier), wide)
    rows, columns = (slice(0, (n - 1) * s + 1, s) for n, s in zip(size, stride, strict=True))
    # In a graph, the sum of three or more tensors becomes an AddN, which may add in another order from call to call. So
    # ensure_shape parts the additions here, and each shift is of the one before it, for its gradient is a sum too.
    for i in range(kh):
        shifted = image[:, rows]
        for j in range(kw):
            output = tf.ensure_shape(output + shifted[:, :, columns, :, None] * filter[i, j], output.shape)
            shifted = shifted[:, :, rate[1] :]
        image = image[:, rate[0] :]
    output = tf.reshape(output, (tf.shape(input)[0], *size, channels * multiplier))
    return tf.cast(output, input.dtype)


if __name__ == "__main__":
    target = f"{__file__}:shifted_sums"
    run = [sys.executable, "-m", "depthwise.conformance", "run", "--target", target, *sys.argv[1:]]
    sys.exit(subprocess.run(run).returncode)
