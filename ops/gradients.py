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

import tensorflow as tf
from depthwise.ops.differentiable import Gradients, Value, differentiable
from depthwise.ops.lowerings.base import Plan, Sizes
from depthwise.ops.spec import COMPLEX, ConvSpec, Dim, nhwc


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

    def _output_gradients(self, x: tf.Tensor, w: tf.Tensor, g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x_, w_, g = self._conj(x), self._conj(w), _upstream(g, self.spec.output_shape)
        dx = self.input_grad(w_, g, _sizes(self.spec.input_shape, x))
        return dx, self.filter_grad(x_, g, _sizes(self.spec.filter_shape, w))

    def _input_grad_gradients(self, w: tf.Tensor, dy: tf.Tensor, g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        w_, dy_, g = self._conj(w), self._conj(dy), _upstream(g, self.spec.input_shape)
        return self.filter_grad(g, dy_, _sizes(self.spec.filter_shape, w)), self.output(g, w_)

    def _filter_grad_gradients(self, x: tf.Tensor, dy: tf.Tensor, g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x_, dy_, g = self._conj(x), self._conj(dy), _upstream(g, self.spec.filter_shape)
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
        if self._is_empty(a, b):
            return tf.zeros(sizes[0] if sizes else self._output_sizes(a, b), a.dtype)
        wide = self.spec.accumulated
        if wide is self.spec:
            return compute(wide, a, b, *sizes)
        return tf.cast(compute(wide, tf.cast(a, wide.dtype), tf.cast(b, wide.dtype), *sizes), self.spec.dtype)

    def _is_empty(self, *operands: tf.Tensor) -> bool:
        """Whether there is known to be nothing to sum, by the spec or (of an output gradient, say) by an operand."""
        if not self.spec.may_be_empty:  # nor asked, in eager code
            return False
        return self.spec.is_empty or any(0 in (operand.shape.dims or ()) for operand in operands)

    def _conj(self, tensor: tf.Tensor) -> tf.Tensor:
        return tf.math.conj(tensor) if self.spec.dtype in COMPLEX else tensor

    def _differentiable(self, value: Value, gradients: Gradients, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return differentiable(value, gradients, f"{self.spec} {gradients.__name__}", a, b)


def _upstream(g: tf.Tensor, shape: tuple[Dim, ...]) -> tf.Tensor:
    """An upstream gradient as a tensor (behind `tf.gather` it arrives as slices), told what is known of its shape: it
    may come from where nothing is."""
    g = tf.convert_to_tensor(g)
    if tf.executing_eagerly() or g.shape.is_fully_defined():
        return g
    known = g.shape.merge_with(shape)
    if g.shape.rank is None or known.as_list() != g.shape.as_list():
        g = tf.identity(g)
        g.set_shape(known)
    return g


def _sizes(shape: tuple[Dim, ...], tensor: tf.Tensor) -> Sizes:
    """The sizes of a tensor of this shape: numbers where all are known, which saves eager code an op."""
    return tf.shape(tensor) if None in shape else shape
