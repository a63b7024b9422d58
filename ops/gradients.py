"""The op as a trilinear form, differentiable to any order.

    t(x, w, dy) = sum over b, i, j, k, q of dy[b, i, j, k*M + q] * conv(x, w)[b, i, j, k*M + q]

is linear in the input x, the filter w and the output gradient dy. Leaving out one argument gives one contraction:

    output(x, w)        with  <dy, output(x, w)>       = t(x, w, dy)
    input_grad(w, dy)   with  <x, input_grad(w, dy)>   = t(x, w, dy)
    filter_grad(x, dy)  with  <w, filter_grad(x, dy)>  = t(x, w, dy)

so the derivative of each, against an upstream gradient g of its own shape, is made of the other two with g in the
place of the argument that was left out. Wired in a circle, they are differentiable to any order. Forward mode needs
nothing more: TensorFlow transposes the backward function, which is linear in its upstream gradient.

Complex dtypes: TensorFlow's gradient of a holomorphic function is the conjugate of its derivative, so the arguments
that stay are conjugated.

Where input, filter or output is known to be empty there is nothing to sum: the contraction is zero, and no lowering
is asked.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TypeAlias

import tensorflow as tf
from depthwise.ops.lowerings.base import Plan, Sizes
from depthwise.ops.spec import COMPLEX, ConvSpec, Dim, nhwc

try:  # Private: TensorFlow offers no public way. tests/ops/test_gradients.py notices if a release changes it.
    from tensorflow.python.eager import record
except ImportError:  # pragma: no cover
    record = None

_NUMBERS = itertools.count()


Value: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""A contraction of two tensors."""
Gradients: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""The two tensors and the gradient of their contraction, to the gradients of the two."""


@dataclass(frozen=True)
class Trilinear:
    """The three contractions of one convolution, each differentiable through the other two."""

    spec: ConvSpec
    plan: Plan

    def output(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """(input, filter) -> output."""
        compute = self.plan.output.output
        return self._differentiable(lambda x, w: self._value(compute, x, w), self._output_gradients, x, w)

    def input_grad(self, w: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        """(filter, dy) -> input gradient, of shape `sizes`."""
        compute = self.plan.input_grad.input_grad
        return self._differentiable(lambda w, dy: self._value(compute, w, dy, sizes), self._input_grad_gradients, w, dy)

    def filter_grad(self, x: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        """(input, dy) -> filter gradient, of shape `sizes`."""
        compute = self.plan.filter_grad.filter_grad
        return self._differentiable(
            lambda x, dy: self._value(compute, x, dy, sizes), self._filter_grad_gradients, x, dy
        )

    # The upstream gradient is converted: behind `tf.gather` it arrives as slices.

    def _output_gradients(self, x: tf.Tensor, w: tf.Tensor, g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x_, w_, g = self._conj(x), self._conj(w), tf.convert_to_tensor(g)
        dx = self.input_grad(w_, g, _sizes(self.spec.input_shape, x))
        return dx, self.filter_grad(x_, g, _sizes(self.spec.filter_shape, w))

    def _input_grad_gradients(self, w: tf.Tensor, dy: tf.Tensor, g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        w_, dy_, g = self._conj(w), self._conj(dy), tf.convert_to_tensor(g)
        return self.filter_grad(g, dy_, _sizes(self.spec.filter_shape, w)), self.output(g, w_)

    def _filter_grad_gradients(self, x: tf.Tensor, dy: tf.Tensor, g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x_, dy_, g = self._conj(x), self._conj(dy), tf.convert_to_tensor(g)
        return self.input_grad(g, dy_, _sizes(self.spec.input_shape, x)), self.output(x_, g)

    def _output_sizes(self, x: tf.Tensor, w: tf.Tensor) -> Sizes:
        if None not in self.spec.output_shape:
            return self.spec.output_shape
        sizes, taps = nhwc(tf.unstack(tf.shape(x)), self.spec.data_format), tf.unstack(tf.shape(w))
        rows, cols = self.spec.axes(sizes, taps)
        return tf.stack(self.spec.in_order(sizes[0], rows.output, cols.output, taps[2] * taps[3]))

    def _value(self, compute: Callable[..., tf.Tensor], a: tf.Tensor, b: tf.Tensor, *sizes: Sizes) -> tf.Tensor:
        """A contraction of two operands: zeros where there is nothing to sum, else sums in the accumulation dtype, each
        rounded once."""
        if self.spec.is_empty:
            return tf.zeros(sizes[0] if sizes else self._output_sizes(a, b), a.dtype)
        wide = self.spec.accumulated
        if wide is self.spec:
            return compute(wide, a, b, *sizes)
        return tf.cast(compute(wide, tf.cast(a, wide.dtype), tf.cast(b, wide.dtype), *sizes), self.spec.dtype)

    def _conj(self, tensor: tf.Tensor) -> tf.Tensor:
        return tf.math.conj(tensor) if self.spec.dtype in COMPLEX else tensor

    def _differentiable(self, value: Value, gradients: Gradients, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        """The value at a and b, of which tapes, accumulators and graphs know the gradients.

        Under `tf.custom_gradient`, forward mode in a graph would differentiate the ops inside `value`, and not use
        `gradients`. So nothing is recorded while `value` runs, and then the whole as one operation. Where nothing in
        eager code could ask, that book-keeping is saved.
        """
        if record is None:
            return tf.custom_gradient(lambda a, b: (value(a, b), partial(gradients, a, b)))(a, b)
        if tf.executing_eagerly() and not may_be_differentiated():
            return value(a, b)
        with record.stop_recording():
            result = value(a, b)
            if not tf.executing_eagerly():
                result = self._with_gradients(result, gradients, a, b)
        record.record_operation("depthwise_conv2d", [result], [a, b], partial(gradients, a, b))
        return result

    def _with_gradients(self, result: tf.Tensor, gradients: Gradients, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        """The same tensor in a graph, for whoever differentiates the finished graph (`tf.gradients`, a tape around a
        `tf.function`).

        `tf.custom_gradient` keeps the operands that it was called with. Here they are inputs of the IdentityN, and are
        read from whichever op is differentiated, for that may be a copy: in another function (an accumulator around a
        `tf.function`, where `tf.custom_gradient` fails in second order), or in another process, which imported the
        graph. There gradients are looked up by name, and another may have the same number: hence the hash.
        """
        which = f"{self.spec} {getattr(gradients, '__name__', '')}"
        name = f"DepthwiseConv2dGradient{next(_NUMBERS)}_{sha256(which.encode()).hexdigest()[:16]}"

        def gradient(op: tf.Operation | None, g: tf.Tensor, *_: tf.Tensor) -> tuple[None, tf.Tensor, tf.Tensor]:
            # Without an op where a SavedModel is written, to which the function's own tensors are known.
            op = own() if op is None else op
            assert op is not None  # nothing is saved of a graph that is gone
            x, y = op.inputs[1:]
            return None, *gradients(x, y, g)

        tf.RegisterGradient(name)(gradient)
        with tf.compat.v1.get_default_graph().gradient_override_map({"IdentityN": name}):
            identity = tf.raw_ops.IdentityN(input=[result, a, b])[0]
        # What is registered stays for good, and would keep a tensor's graph with it.
        own = weakref.ref(identity.op)
        return identity


def _sizes(shape: tuple[Dim, ...], tensor: tf.Tensor) -> Sizes:
    """The sizes of a tensor of this shape: numbers where all are known, which saves eager code an op."""
    return tf.shape(tensor) if None in shape else shape


def may_be_differentiated() -> bool:
    """Whether a tape or an accumulator is at work here, who may ask for derivatives of what is computed."""
    return record is None or bool(record.could_possibly_record())
