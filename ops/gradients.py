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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import tensorflow as tf
from depthwise.ops.lowerings.base import Lowering
from depthwise.ops.spec import COMPLEX, ConvSpec, nhwc

try:  # Private: TensorFlow offers no public way to ask. Without it an eager call takes longer, and that is all.
    from tensorflow.python.eager.record import could_possibly_record
except ImportError:  # pragma: no cover

    def could_possibly_record() -> bool:
        return True


Pair: TypeAlias = tuple[tf.Tensor, tf.Tensor]
Differentiated: TypeAlias = tuple[tf.Tensor, Callable[[tf.Tensor], Pair]]
"""A value, and the function that takes its gradient to the gradients of its two arguments."""


@dataclass(frozen=True)
class Plan:
    """Which lowering computes each contraction."""

    output: Lowering
    input_grad: Lowering
    filter_grad: Lowering


@dataclass(frozen=True)
class Trilinear:
    """The three contractions of one convolution, each differentiable through the other two."""

    spec: ConvSpec
    plan: Plan

    def output(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """(input, filter) -> output."""

        def depthwise_conv2d(x: tf.Tensor, w: tf.Tensor) -> Differentiated:
            def grad(g: tf.Tensor) -> Pair:
                return (
                    self.input_grad(self._conj(w), g, tf.shape(x)),
                    self.filter_grad(self._conj(x), g, tf.shape(w)),
                )

            if self.spec.is_empty:
                return tf.zeros(self._output_sizes(x, w), x.dtype), grad
            return self._accumulated(self.plan.output.output, x, w), grad

        return _recorded(depthwise_conv2d, x, w)

    def input_grad(self, w: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """(filter, dy) -> input gradient, of shape `sizes`."""

        def depthwise_conv2d_input_grad(w: tf.Tensor, dy: tf.Tensor) -> Differentiated:
            def grad(g: tf.Tensor) -> Pair:
                return (
                    self.filter_grad(g, self._conj(dy), tf.shape(w)),
                    self.output(g, self._conj(w)),
                )

            if self.spec.is_empty:
                return tf.zeros(sizes, dy.dtype), grad
            return self._accumulated(self.plan.input_grad.input_grad, w, dy, sizes), grad

        return _recorded(depthwise_conv2d_input_grad, w, dy)

    def filter_grad(self, x: tf.Tensor, dy: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """(input, dy) -> filter gradient, of shape `sizes`."""

        def depthwise_conv2d_filter_grad(x: tf.Tensor, dy: tf.Tensor) -> Differentiated:
            def grad(g: tf.Tensor) -> Pair:
                return (
                    self.input_grad(g, self._conj(dy), tf.shape(x)),
                    self.output(self._conj(x), g),
                )

            if self.spec.is_empty:
                return tf.zeros(sizes, dy.dtype), grad
            return self._accumulated(self.plan.filter_grad.filter_grad, x, dy, sizes), grad

        return _recorded(depthwise_conv2d_filter_grad, x, dy)

    def _output_sizes(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor | tuple[int, ...]:
        if None not in self.spec.output_shape:
            return self.spec.output_shape
        sizes, taps = nhwc(tf.unstack(tf.shape(x)), self.spec.data_format), tf.unstack(tf.shape(w))
        rows, cols = self.spec.axes(sizes, taps)
        return tf.stack(self.spec.layout(sizes[0], rows.output, cols.output, taps[2] * taps[3]))

    def _accumulated(self, contraction: Callable[..., tf.Tensor], a: tf.Tensor, b: tf.Tensor, *sizes: Any) -> tf.Tensor:
        """A contraction of two operands, its sums formed in the spec's accumulation dtype and rounded once."""
        inner = self.spec.accumulated
        if inner is self.spec:
            return contraction(inner, a, b, *sizes)
        return tf.cast(contraction(inner, tf.cast(a, inner.dtype), tf.cast(b, inner.dtype), *sizes), self.spec.dtype)

    def _conj(self, tensor: tf.Tensor) -> tf.Tensor:
        return tf.math.conj(tensor) if self.spec.dtype in COMPLEX else tensor


def _recorded(function: Callable[[tf.Tensor, tf.Tensor], Differentiated], a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The function's value, differentiable. Where no tape could ask, TensorFlow's book-keeping is saved: half the time
    of a small eager call."""
    if tf.executing_eagerly() and not could_possibly_record():
        return function(a, b)[0]
    return tf.custom_gradient(function)(a, b)
