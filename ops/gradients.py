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
from depthwise.ops.differentiable import differentiable
from depthwise.ops.lowerings.base import Contraction, Plan, Sizes
from depthwise.ops.mapped import MappedContraction
from depthwise.ops.sizes import told
from depthwise.ops.spec import COMPLEX, ConvSpec, Dim, argument_error, nhwc


@dataclass(frozen=True)
class Trilinear:
    """The three contractions of one convolution, each differentiable through the other two."""

    spec: ConvSpec
    plan: Plan

    def output(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """(input, filter) -> output."""
        return self._differentiable("output", self.plan.output.output, x, w)

    def input_grad(self, w: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        """(filter, dy) -> input gradient, of shape `sizes`."""
        return self._differentiable("input_grad", self.plan.input_grad.input_grad, w, dy, sizes)

    def filter_grad(self, x: tf.Tensor, dy: tf.Tensor, sizes: Sizes) -> tf.Tensor:
        """(input, dy) -> filter gradient, of shape `sizes`."""
        return self._differentiable("filter_grad", self.plan.filter_grad.filter_grad, x, dy, sizes)

    def gradients(
        self, contraction: Contraction, a: tf.Tensor, b: tf.Tensor, g: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The gradients of a contraction by its operands a and b, given g, that of its result.

        g may be IndexedSlices (behind `tf.gather`), or come from where nothing is known of its shape.
        """
        spec, a_, b_ = self.spec, self._conj(a), self._conj(b)
        if contraction == "output":
            g = _upstream(g, "output", spec.output_shape)
            dx = self.input_grad(b_, g, _sizes(spec.input_shape, a))
            return dx, self.filter_grad(a_, g, _sizes(spec.filter_shape, b))
        if contraction == "input_grad":
            g = _upstream(g, "input gradient", spec.input_shape)
            return self.filter_grad(g, b_, _sizes(spec.filter_shape, a)), self.output(g, a_)
        g = _upstream(g, "filter gradient", spec.filter_shape)
        return self.input_grad(g, b_, _sizes(spec.input_shape, a)), self.output(a_, g)

    def _differentiable(
        self, contraction: Contraction, compute: Callable[..., tf.Tensor], a: tf.Tensor, b: tf.Tensor, *sizes: Sizes
    ) -> tf.Tensor:
        return differentiable(
            lambda a, b: self._value(compute, a, b, *sizes), MappedContraction(self, contraction), a, b
        )

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
        if self.spec.is_empty or not self.spec.may_be_empty:
            return self.spec.is_empty
        return any(0 in (operand.shape.dims or ()) for operand in operands)

    def _conj(self, tensor: tf.Tensor) -> tf.Tensor:
        return tf.math.conj(tensor) if self.spec.dtype in COMPLEX else tensor


def _upstream(g: tf.Tensor, what: str, shape: tuple[Dim, ...]) -> tf.Tensor:
    """The gradient that is given for `what`, which has this shape, as a tensor that is told so."""
    g = tf.convert_to_tensor(g)
    if not g.shape.is_compatible_with(shape):
        rule, advice = f"have the shape of the {what}, {shape}", "Pass one number for each that is differentiated."
        whose = "gradient of depthwise_conv2d"
        raise argument_error("output_gradients", rule, f"shape {tuple(g.shape)}", advice, whose=whose)
    return told(g, shape)


def _sizes(shape: tuple[Dim, ...], tensor: tf.Tensor) -> Sizes:
    """The sizes of a tensor of this shape: numbers where all are known, which saves eager code an op."""
    return tf.shape(tensor) if None in shape else shape
