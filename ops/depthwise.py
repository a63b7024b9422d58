"""depthwise_conv2d and explain: the op's public face."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import tensorflow as tf
from depthwise.ops import choose
from depthwise.ops.autograph import not_converted
from depthwise.ops.choose import Explanation
from depthwise.ops.gradients import Trilinear
from depthwise.ops.lowerings import BY_NAME
from depthwise.ops.mode import Mode, current_mode
from depthwise.ops.spec import MOST_SPECS, ConvSpec, canonicalize, check_name, spec_and_tensors

LOWERINGS: tuple[str, ...] = tuple(BY_NAME)
"""Names of the lowerings that can be asked for; "auto" chooses among them."""


@not_converted
def depthwise_conv2d(
    input: Any,
    filter: Any,
    strides: Sequence[int],
    padding: str | Sequence[Sequence[int]],
    data_format: str | None = None,
    dilations: int | Sequence[int] | None = None,
    name: str | None = None,
    *,
    lowering: str = "auto",
) -> tf.Tensor:
    """Depthwise 2-D convolution: every input channel convolved with filters of its own.

    For NHWC, and likewise for NCHW,

        output[b, i, j, k*M + q] = sum over di, dj of
            filter[di, dj, k, q] * input[b, stride_h*i + rate_h*di - top, stride_w*j + rate_w*dj - left, k]

    where a tap that lies over padding is no term of the sum. This is the formula that `tf.nn.depthwise_conv2d`
    documents (https://www.tensorflow.org/api_docs/python/tf/nn/depthwise_conv2d); it holds here for all arguments:
    unequal strides, strides together with dilations, filters larger than the image, both data formats on every device.

    Args:
      input: [batch, height, width, channels] for NHWC, [batch, channels, height, width] for NCHW. A tensor, variable,
        array or nested list; float16, bfloat16, float32, float64, int8, int16, int32, int64, uint8, complex64 or
        complex128. Any size may be 0. While a function is traced, sizes and the rank may be unknown.
      filter: [filter_height, filter_width, channels, multiplier], of the dtype of `input`; height and width at least 1.
      strides: 4 integers of at least 1 in the order of the data format, 1 for batch and channels.
      padding: "SAME", "VALID", or 4 pairs (before, after) in the order of the data format, [0, 0] for batch and
        channels. SAME gives ceil(size / stride) outputs and puts the odd sample of padding after the image.
      data_format: "NHWC" (which None stands for) or "NCHW".
      dilations: the rate, 1 or more samples between neighbouring taps: one integer, two (height, width), or four in
        the order of the data format. None is 1.
      name: the output's name in a graph.
      lowering: "auto", or the name of a way to compute the op (`LOWERINGS`): "native" (TensorFlow's kernels), "taps"
        (multiply-adds that XLA fuses), "island" (taps compiled by XLA inside a program that is not), "portable" (native
        outside XLA and taps under it, decided where the op runs: for models that are saved now and compiled later).
        "auto" chooses when the op is traced; `explain` tells what.

    Returns:
      The output, [batch, out_height, out_width, channels * multiplier] for NHWC, [batch, channels * multiplier,
      out_height, out_width] for NCHW, of the dtype of `input`. float16 and bfloat16 are accumulated in float32 and
      rounded once; integers are exact where the result fits the dtype, and are taken modulo 2**bits where not.

    Differentiable to any order in input and filter, in reverse and forward mode, in eager code, in functions with or
    without XLA, and vectorized by `tf.vectorized_map`; integers have no gradients. The same call gives the same bits.
    (Where an image has more than four times the elements of its output, Jacobians by the filter are left to
    TensorFlow's own way of vectorizing; by "native" and "portable" it raises an error under XLA and inside a map. Under
    XLA so do any Jacobian by "portable" inside a map, and by "taps" those by filters of over 64 taps.)

    NaN and infinity in the input or in the output gradient reach exactly the results whose sums they are in. What a
    filter value that is not finite meets over padding (in an input gradient: beyond the output, or with strides) is not
    specified: a lowering may leave the term out, or multiply it with a zero, which gives NaN. (A float64 function
    that is traced outside XLA and later called within spreads both among channels: there XLA compiles TensorFlow's
    kernel. "portable" does not.)

    Raises:
      TypeError: an argument is of a wrong type, or input and filter of a wrong dtype or of two.
      ValueError: an argument breaks a rule above. Both name the argument, the rule, what was received and what to do,
        in eager calls and while tracing.
      tf.errors.InvalidArgumentError: at run time, with the same text, what was unknown until then breaks a rule.
        (Under XLA, which drops messages, the text is TensorFlow's, and the failing op's name tells the rule.)
      NotImplementedError: the lowering that `lowering` names cannot compute the output or one of the gradients (also
        where only the output is wanted). "auto" never raises it.

    Example:
      >>> import tensorflow as tf
      >>> from depthwise.ops import depthwise_conv2d
      >>> x = tf.reshape([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1, 3, 2, 1])
      >>> w = tf.reshape([1.0, 2.0, 3.0, 4.0], [2, 1, 1, 2])
      >>> y = depthwise_conv2d(x, w, strides=[1, 1, 1, 1], padding="VALID")
      >>> y.numpy().ravel().tolist()
      [10.0, 14.0, 14.0, 20.0, 18.0, 26.0, 22.0, 32.0]
      >>> depthwise_conv2d(x, w, strides=[1, 2, 1, 1], padding="SAME", dilations=[2, 1]).shape
      TensorShape([1, 2, 2, 2])
    """
    check_name(name)
    choose.check_lowering(lowering)
    # Eager ops have no names: a scope for them would be a tenth of a small call's time.
    with nullcontext() if tf.executing_eagerly() else tf.name_scope(name or "depthwise_conv2d") as scope:
        spec, input, filter = canonicalize(input, filter, strides, padding, data_format, dilations)
        output = _contractions(spec, lowering, current_mode()).output(input, filter)
        return output if name is None or scope is None else tf.identity(output, scope)


@not_converted
def explain(
    input: Any,
    filter: Any,
    strides: Sequence[int],
    padding: str | Sequence[Sequence[int]],
    data_format: str | None = None,
    dilations: int | Sequence[int] | None = None,
    name: str | None = None,
    *,
    lowering: str = "auto",
) -> Explanation:
    """Which lowering the output and the two gradients of `depthwise_conv2d` would take here, and why.

    Nothing is computed. "Here" matters: inside a function with `jit_compile=True` the answer is another than outside.

    Args:
      input, filter, strides, padding, data_format, dilations, name, lowering: as for `depthwise_conv2d`.

    Returns:
      An `Explanation`: a `Choice` (lowering and reason) for each of `output`, `input_grad`, `filter_grad`. Print it.

    Raises:
      TypeError, ValueError, NotImplementedError: as `depthwise_conv2d` would.

    Example:
      >>> import tensorflow as tf
      >>> from depthwise.ops import explain
      >>> x, w = tf.zeros([1, 8, 8, 2]), tf.zeros([3, 3, 2, 1])
      >>> explain(x, w, [1, 1, 1, 1], "SAME").output.lowering
      'native'
      >>> @tf.function(jit_compile=True)
      ... def compiled(x):
      ...     print(explain(x, w, [1, 1, 1, 1], "SAME").output.lowering)
      ...     return x
      >>> _ = compiled(x)
      taps
    """
    check_name(name)
    choose.check_lowering(lowering)
    spec, _, _ = spec_and_tensors(input, filter, strides, padding, data_format, dilations)
    return choose.explanation(spec, lowering, current_mode())


@lru_cache(maxsize=MOST_SPECS)
def _contractions(spec: ConvSpec, lowering: str, mode: Mode) -> Trilinear:
    return Trilinear(spec, choose.plan(spec, lowering, mode))
