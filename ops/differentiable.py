"""A value as one operation whose gradients are given: to tapes, accumulators, graphs, and `tf.vectorized_map`."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any, Protocol, TypeAlias

import tensorflow as tf

try:  # Private: TensorFlow offers no public way. tests/ops/test_gradients.py notices if a release changes it.
    from tensorflow.python.eager import record
except ImportError:  # pragma: no cover
    record = None
try:  # Private likewise; tests/ops/test_place.py notices.
    from tensorflow.python.ops.parallel_for import pfor
except ImportError:  # pragma: no cover
    pfor = None

Value: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""A function of two tensors."""


class Gradients(Protocol):
    """The two tensors and the gradient of their value, to the gradients of the two. As text, it says of which value."""

    def __call__(self, a: tf.Tensor, b: tf.Tensor, g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]: ...
    def mapped(self, stacked: tuple[bool, bool]) -> Gradients:
        """The gradients of as many values as a map has rows, which the tensors are stacks of, or are shared by."""
        ...


_NUMBERS = itertools.count()
_REGISTERED: dict[bytes, Gradients] = {}
"""By the name under which TensorFlow knows them."""


def may_be_differentiated() -> bool:
    """Whether a tape or an accumulator is at work here, who may ask for derivatives of what is computed."""
    return record is None or bool(record.could_possibly_record())


def differentiable(value: Value, gradients: Gradients, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The value at a and b, of which tapes, accumulators and graphs know the gradients.

    Under `tf.custom_gradient`, forward mode in a graph would differentiate the ops inside `value`, and not use
    `gradients`. So nothing is recorded while `value` runs, and then the whole as one operation. Where nothing in
    eager code could ask, that book-keeping is saved.
    """
    if record is None:
        return tf.custom_gradient(lambda a, b: (value(a, b), partial(gradients, a, b)))(a, b)
    if tf.executing_eagerly() and not may_be_differentiated():
        return value(a, b)
    if not tf.executing_eagerly():
        # A tensor from outside comes into the graph while a tape can see it, or what is mapped is cut off from it.
        a, b = (tensor if tf.is_symbolic_tensor(tensor) else tf.identity(tensor) for tensor in (a, b))
    with record.stop_recording():
        result = value(a, b)
        if not tf.executing_eagerly():
            result = _in_graph(result, gradients, a, b)
    record.record_operation("depthwise_conv2d", [result], [a, b], partial(gradients, a, b))
    return result


def _in_graph(result: tf.Tensor, gradients: Gradients, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The same tensor in a graph, for whoever differentiates the finished graph (`tf.gradients`, a tape around a
    `tf.function`).

    `tf.custom_gradient` keeps the operands that it was called with. Here they are inputs of the IdentityN, and are read
    from whichever op is differentiated, for that may be a copy: in another function (an accumulator around a
    `tf.function`, where `tf.custom_gradient` fails in second order), or in another process, which imported the graph.
    There gradients are looked up by name, and another may have the same number: hence the hash.
    """
    name = f"DepthwiseConv2dGradient{next(_NUMBERS)}_{sha256(str(gradients).encode()).hexdigest()[:16]}"

    def gradient(op: tf.Operation | None, g: tf.Tensor, *_: tf.Tensor) -> tuple[None, tf.Tensor, tf.Tensor]:
        # Without an op where a SavedModel is written, to which the function's own tensors are known.
        op = own() if op is None else op
        assert op is not None  # nothing is saved of a graph that is gone
        x, y = op.inputs[1:]
        return None, *gradients(x, y, g)

    tf.RegisterGradient(name)(gradient)
    _REGISTERED[name.encode()] = gradients
    with tf.compat.v1.get_default_graph().gradient_override_map({"IdentityN": name}):
        identity = tf.raw_ops.IdentityN(input=[result, a, b])[0]
    # What is registered stays for good, and would keep a tensor's graph with it.
    own = weakref.ref(identity.op)
    return identity


def _vectorized(by_tensorflow: Callable[[Any], Any], call: Any) -> Any:
    """What `tf.vectorized_map` makes of an IdentityN, of ours or any other (as `by_tensorflow`).

    It writes every op of a graph anew, for all rows at once, and would drop the gradients of this one: a tape around
    the map would differentiate TensorFlow's kernels, whose gradients oneDNN gets wrong where dilated, and would miss
    what was computed from the filter while no tape was recording.
    """
    try:
        gradients = _REGISTERED[call.op.get_attr("_gradient_op_type")]
    except (ValueError, KeyError):  # it has no such attribute, or another's gradient
        return by_tensorflow(call)
    result, a, b = call.inputs
    if not result.is_stacked:
        return by_tensorflow(call)
    value = differentiable(lambda *_: result.t, gradients.mapped((a.is_stacked, b.is_stacked)), a.t, b.t)
    return [pfor.wrap(value, True), a, b]


if pfor is not None and record is not None:
    registry = pfor._pfor_converter_registry  # no converter can be registered beside another, or taken away
    registry["IdentityN"] = partial(_vectorized, registry["IdentityN"])
