"""A function as one operation whose gradients are given: to tapes, accumulators, graphs, and `tf.vectorized_map`."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from functools import cache, partial
from hashlib import sha256
from typing import Any, Protocol, TypeAlias

import tensorflow as tf
from depthwise.ops.mode import is_in_compiled_branch

try:  # Private: TensorFlow offers no public way. tests/ops/test_gradients.py notices if a release changes it.
    from tensorflow.python.eager import record
except ImportError:  # pragma: no cover
    record = None
try:  # Private likewise; tests/ops/test_mapped.py notices.
    from tensorflow.python.ops.parallel_for import pfor
except ImportError:  # pragma: no cover
    pfor = None

Compute: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class Bilinear(Protocol):
    """A function of two tensors, linear in each. Its text tells it from every other: gradients are registered by it."""

    def gradients(self, a: tf.Tensor, b: tf.Tensor, g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The gradients by a and b, given that of the result."""
        ...

    def mapped(self, stacked: tuple[bool, bool]) -> Bilinear:
        """The same for all elements of a map, of which each tensor is a stack, or which share it."""
        ...

    def result(self, a: tf.Tensor, b: tf.Tensor, shape: tf.TensorShape) -> tf.Tensor | None:
        """The function of a and b, which has this shape; None where it has no way of its own to compute that."""
        ...


_NUMBERS = itertools.count()
_REGISTERED: dict[bytes, Bilinear] = {}
"""By the name under which TensorFlow knows them."""


def may_be_differentiated() -> bool:
    """Whether a tape or an accumulator is at work here, who may ask for derivatives of what is computed."""
    return record is None or bool(record.could_possibly_record())


def differentiable(compute: Compute, function: Bilinear, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The function at a and b, as `compute` has it, whose gradients tapes, accumulators and graphs know.

    Under `tf.custom_gradient`, forward mode in a graph would differentiate the ops inside `compute`, and not use the
    function's gradients. So nothing is recorded while it computes, and then the whole as one operation. Where nothing
    in eager code could ask, that book-keeping is saved.
    """
    if record is None:
        return tf.custom_gradient(lambda a, b: (compute(a, b), partial(function.gradients, a, b)))(a, b)
    if tf.executing_eagerly() and not may_be_differentiated():
        return compute(a, b)
    if not tf.executing_eagerly():
        # A tensor from outside comes into the graph while a tape can see it, or what is mapped is cut off from it.
        a, b = (tensor if tf.is_symbolic_tensor(tensor) else tf.identity(tensor) for tensor in (a, b))
    with record.stop_recording():
        result = compute(a, b)
        if not tf.executing_eagerly():
            result = _in_graph(result, function, a, b)
    record.record_operation("depthwise_conv2d", [result], [a, b], partial(function.gradients, a, b))
    return result


def _in_graph(result: tf.Tensor, function: Bilinear, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The same tensor in a graph, for whoever differentiates the finished graph (`tf.gradients`, a tape around a
    `tf.function`).

    `tf.custom_gradient` keeps the operands that it was called with. Here they are inputs of the op, and are read from
    whichever op is differentiated, for that may be a copy: in another function (an accumulator around a `tf.function`,
    where `tf.custom_gradient` fails in second order), or in another process, which imported the graph. There gradients
    are looked up by name, and another may have the same number: hence the hash.
    """
    name = f"DepthwiseConv2dGradient{next(_NUMBERS)}_{sha256(str(function).encode()).hexdigest()[:16]}"

    def gradient(op: tf.Operation | None, *upstream: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        # Where a SavedModel is written, to which the function's own tensors are known, there is no op, and its inputs
        # stand in the place of its outputs' gradients.
        g = upstream[0] if op is not None else upstream[-3]
        op = own() if op is None else op
        assert op is not None  # nothing is saved of a graph that is gone
        *others, x, y = op.inputs
        return *(None for _ in others), *function.gradients(x, y, g)

    tf.RegisterGradient(name)(gradient)
    _REGISTERED[name.encode()] = function
    graph = tf.compat.v1.get_default_graph()
    with graph.gradient_override_map({"IdentityN": name, "StatelessCase": name}):
        if is_in_compiled_branch():
            found = _result_alone(graph, result, a, b)
        else:
            found = tf.raw_ops.IdentityN(input=[result, a, b])[0]
    # What is registered stays for good, and would keep a tensor's graph with it.
    own = weakref.ref(found.op)
    return found


def _result_alone(graph: tf.Graph, result: tf.Tensor, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The result, by an op that takes all three and has but this one output: a conditional with a single branch.

    An IdentityN's other outputs have no gradients, and TensorFlow makes zeros of their shapes for that, which it never
    uses. In a branch it makes them results of the branch for that; XLA must then know the sizes of what another branch
    leaves out, and fails or ends the process where these are known at run time alone.
    """
    first = _first_of_three(result.dtype)
    first.add_to_graph(graph)
    return tf.raw_ops.StatelessCase(
        branch_index=0, input=[result, a, b], Tout=[result.dtype], branches=[first], output_shapes=[result.shape]
    )[0]


@cache
def _first_of_three(dtype: tf.DType) -> Any:
    with tf.init_scope():
        return tf.function(lambda first, a, b: first, autograph=False).get_concrete_function(
            *[tf.TensorSpec(None, dtype)] * 3
        )


def _vectorized(by_tensorflow: Callable[[Any], Any], call: Any) -> Any:
    """What `tf.vectorized_map` makes of an op of the kinds above, of ours or any other (as `by_tensorflow`).

    It writes every op of a graph anew, for all elements at once, and would drop the gradients of this one: a tape
    around the map would differentiate TensorFlow's kernels, whose gradients oneDNN gets wrong where dilated, and would
    miss what was computed from the filter while no tape was recording. The ops that compute the result have been
    written anew by now; where the function has a way of its own they are left without use, and never run.
    """
    try:
        function = _REGISTERED[call.op.get_attr("_gradient_op_type")]
    except (ValueError, KeyError):  # it has no such attribute, or another's gradient
        return by_tensorflow(call)
    *_, result, a, b = call.inputs
    if not result.is_stacked:
        return by_tensorflow(call)
    mapped = function.mapped((a.is_stacked, b.is_stacked))

    def compute(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        found = mapped.result(a, b, result.t.shape)
        return result.t if found is None else found

    return [pfor.wrap(differentiable(compute, mapped, a.t, b.t), True), a, b][: len(call.op.outputs)]


if pfor is not None and record is not None:
    registry = pfor._pfor_converter_registry  # no converter can be registered beside another, or taken away
    for kind in ("IdentityN", "StatelessCase"):
        registry[kind] = partial(_vectorized, registry[kind])
