"""Another lowering, in a function of its own inside whatever runs it.

Compiled by XLA (`island`), the function is fused code in the middle of a graph, or of an eager program, that XLA does
not compile otherwise. It pays where TensorFlow's kernels are slow (`choose` has the cases). Its price is a compilation
for every shape, at the first call.

Not compiled, it is code that is traced once for all the graphs that hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import tensorflow as tf
from depthwise.ops.lowerings.base import Contraction, Lowering, Sizes
from depthwise.ops.mode import Mode
from depthwise.ops.spec import ConvSpec

MOST_FUNCTIONS = 512
"""Functions to keep: more than a program has contractions. Each takes two megabytes or more, so that the 4096 of other
records would be ten gigabytes where eager calls are on images of ever new sizes."""


class InFunction:
    """A lowering, each of whose contractions is a `tf.function`; calls alike share it.

    `inside` makes the lowering, told whether images are in memory by the time that XLA's code begins.
    """

    def __init__(self, name: str, inside: Callable[[bool], Lowering], jit_compile: bool) -> None:
        self.name, self.jit_compile = name, jit_compile
        self._inside = {in_memory: inside(in_memory) for in_memory in (False, True)}
        self._function = lru_cache(maxsize=MOST_FUNCTIONS)(self._new_function)

    def refuses(self, spec: ConvSpec, contraction: Contraction, mode: Mode) -> str | None:
        if self.jit_compile and not _has_xla():
            return "this build of TensorFlow has no XLA compiler"
        return self._inside[False].refuses(spec, contraction, "xla" if self.jit_compile else mode)

    def output(self, spec: ConvSpec, input: tf.Tensor, filter: tf.Tensor) -> tf.Tensor:
        return self._call(self._function(spec, "output", self._in_memory(input)), input, filter)

    def input_grad(self, spec: ConvSpec, filter: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        function = self._function(spec, "input_grad", self._in_memory(dy))
        return self._call(function, filter, dy, tf.convert_to_tensor(sizes))

    def filter_grad(self, spec: ConvSpec, input: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        # Its code does not depend on where images are: traced once for both.
        return self._call(self._function(spec, "filter_grad", False), input, dy, tf.convert_to_tensor(sizes))

    def _call(self, function: Callable[..., tf.Tensor], *operands: tf.Tensor) -> tf.Tensor:
        result = function(*operands)
        if not self.jit_compile or tf.executing_eagerly():
            return result
        # Grappler does not look into what XLA compiles, and leaves much of unknown shape as it is: a step with `y**2`
        # behind an island took 7.0 ms, and takes 1.6 (3x3 on (8,28,28,96), two outputs a channel).
        return tf.ensure_shape(result, result.shape)

    def _in_memory(self, image: tf.Tensor) -> bool:
        return self.jit_compile or _is_argument(image)

    def _new_function(self, spec: ConvSpec, contraction: Contraction, in_memory: bool) -> Callable[..., Any]:
        shapes = {
            "output": (spec.input_shape, spec.filter_shape),
            "input_grad": (spec.filter_shape, spec.output_shape),
            "filter_grad": (spec.input_shape, spec.output_shape),
        }[contraction]
        signature = [tf.TensorSpec(shape, spec.dtype) for shape in shapes]
        if contraction != "output":
            signature.append(tf.TensorSpec([4], tf.int32))
        compute = getattr(self._inside[in_memory], contraction)

        def depthwise_conv2d(*operands: tf.Tensor) -> tf.Tensor:
            return compute(spec, *operands)

        function = tf.function(depthwise_conv2d, autograph=False, jit_compile=self.jit_compile)
        # Traced here, outside whatever graph is being built; and as one concrete function, or TensorFlow would count
        # the functions of many layers as retracings of one, and warn.
        with tf.init_scope():
            concrete: Callable[..., Any] = function.get_concrete_function(*signature)
        return concrete


def _is_argument(image: tf.Tensor) -> bool:
    """Whether a tensor is in memory before anything runs: eager, or an argument of the outermost function traced."""
    op = getattr(image, "op", None)
    if op is None:  # an eager tensor
        return True
    # Around the outermost function is a plain graph, which has none around itself to name.
    is_outermost = not hasattr(getattr(op.graph, "outer_graph", None), "outer_graph")
    return is_outermost and op.type == "Placeholder"


@cache
def _has_xla() -> bool:
    """Asks this build by trying: on some systems TensorFlow comes without XLA."""
    with tf.init_scope(), tf.device("CPU:0"):
        try:
            tf.function(lambda: tf.constant(1) + 1, jit_compile=True, autograph=False)()
        except (tf.errors.OpError, ValueError):
            return False
    return True
