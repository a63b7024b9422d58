"""A value as one operation whose gradients are given: to tapes, accumulators, graphs, and `tf.vectorized_map`."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any, TypeAlias

import tensorflow as tf
from depthwise.ops.mode import is_under_xla

try:  # Private: TensorFlow offers no public way. tests/ops/test_gradients.py notices if a release changes it.
    from tensorflow.python.eager import record
except ImportError:  # pragma: no cover
    record = None
try:  # Private likewise; tests/ops/test_place.py notices.
    from tensorflow.python.ops.parallel_for import pfor
except ImportError:  # pragma: no cover
    pfor = None

Value: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""A contraction of two tensors."""
Gradients: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""The two tensors and the gradient of their contraction, to the gradients of the two."""

_NUMBERS = itertools.count()
_REGISTERED: dict[bytes, tuple[Gradients, str]] = {}
"""By the name under which TensorFlow knows them: gradients, and what it is that they are of."""


def may_be_differentiated() -> bool:
    """Whether a tape or an accumulator is at work here, who may ask for derivatives of what is computed."""
    return record is None or bool(record.could_possibly_record())


def differentiable(value: Value, gradients: Gradients, which: str, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The value at a and b, of which tapes, accumulators and graphs know the gradients; `which` tells values apart.

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
            result = _in_graph(result, gradients, which, a, b)
    record.record_operation("depthwise_conv2d", [result], [a, b], partial(gradients, a, b))
    return result


def _in_graph(result: tf.Tensor, gradients: Gradients, which: str, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The same tensor in a graph, for whoever differentiates the finished graph (`tf.gradients`, a tape around a
    `tf.function`).

    `tf.custom_gradient` keeps the operands that it was called with. Here they are inputs of the IdentityN, and are read
    from whichever op is differentiated, for that may be a copy: in another function (an accumulator around a
    `tf.function`, where `tf.custom_gradient` fails in second order), or in another process, which imported the graph.
    There gradients are looked up by name, and another may have the same number: hence the hash.
    """
    name = f"DepthwiseConv2dGradient{next(_NUMBERS)}_{sha256(which.encode()).hexdigest()[:16]}"

    def gradient(op: tf.Operation | None, g: tf.Tensor, *_: tf.Tensor) -> tuple[None, tf.Tensor, tf.Tensor]:
        # Without an op where a SavedModel is written, to which the function's own tensors are known.
        op = own() if op is None else op
        assert op is not None  # nothing is saved of a graph that is gone
        x, y = op.inputs[1:]
        return None, *gradients(x, y, g)

    tf.RegisterGradient(name)(gradient)
    _REGISTERED[name.encode()] = gradients, which
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
        gradients, which = _REGISTERED[call.op.get_attr("_gradient_op_type")]
    except (ValueError, KeyError):  # it has no such attribute, or another's gradient
        return by_tensorflow(call)
    result, a, b = call.inputs
    if not result.is_stacked:
        return by_tensorflow(call)
    stacked = a.is_stacked, b.is_stacked
    value = differentiable(
        lambda *_: result.t, partial(_of_rows, gradients, stacked), f"{which} of rows {stacked}", a.t, b.t
    )
    return [pfor.wrap(value, True), a, b]


def _of_rows(
    gradients: Gradients, stacked: tuple[bool, bool], a: tf.Tensor, b: tf.Tensor, g: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The gradients of a and b where a row of g, and of those that are stacked, is of one value each."""

    def of_row(rows: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        *operands, upstream = rows
        x, y = (operands.pop(0) if has_rows else all_rows for has_rows, all_rows in zip(stacked, (a, b), strict=True))
        return gradients(x, y, upstream)

    rows = [tensor for tensor, has_rows in zip((a, b, g), (*stacked, True), strict=True) if has_rows]
    if is_under_xla():
        # There a vectorized map is a function, of which TensorFlow makes the gradient at once, that one's, and so on.
        found = tf.map_fn(of_row, rows, fn_output_signature=(a.dtype, b.dtype))
    else:
        found = tf.vectorized_map(of_row, rows)
    da, db = (d if has_rows else tf.reduce_sum(d, 0) for d, has_rows in zip(found, stacked, strict=True))
    return da, db


if pfor is not None and record is not None:
    registry = pfor._pfor_converter_registry  # no converter can be registered beside another, or taken away
    registry["IdentityN"] = partial(_vectorized, registry["IdentityN"])
