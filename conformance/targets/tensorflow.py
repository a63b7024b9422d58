"""Targets that are callables with the signature of `tf.nn.depthwise_conv2d`: the stock op, ours, and anybody's."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.metadata import version
from typing import Any

import tensorflow as tf
from depthwise.conformance.case import Case
from depthwise.conformance.data import FIRST_ORDER, SECOND_ORDER, Problem
from depthwise.conformance.malformed import MALFORMED
from depthwise.conformance.targets.base import Outputs, as_array

try:  # Private: TensorFlow says in public only what its environment variable says, and the default is a processor's.
    from tensorflow.python.util import _pywrap_util_port
except ImportError:  # pragma: no cover
    _pywrap_util_port = None


def uses_onednn() -> bool:
    """Whether this process's TensorFlow computes with oneDNN's kernels."""
    return _pywrap_util_port is not None and bool(_pywrap_util_port.IsMklEnabled())


Tensor = Any
Op = Callable[..., Tensor]


class TensorFlowTarget:
    """Runs a callable in eager mode, as a graph with known or unknown dimensions, and compiled by XLA.

    Args:
      op: called as op(input, filter, strides=..., padding=..., data_format=..., dilations=...).
    """

    def __init__(self, op: Op) -> None:
        self.op = op
        # As in a user's `tf.function`. The rest is traced without AutoGraph, which gives errors another class and text.
        self._in_graph = tf.autograph.to_graph(_handed_on(op))
        # TF32 has 11 significant bits: a result computed in it is not float32's, so GPUs are asked for float32.
        tf.config.experimental.enable_tensor_float_32_execution(False)

    def devices(self) -> list[str]:
        return sorted({device.device_type for device in tf.config.list_logical_devices()})

    def versions(self) -> dict[str, str]:
        return {
            "tensorflow": str(tf.__version__),
            "keras": version("keras"),  # not `tf.keras`, which environments that ask for Keras 2 may lack
            "onednn": "on" if uses_onednn() else "off",
        }

    def prepare(self, problem: Problem, wanted: Collection[str]) -> Callable[[], Outputs]:
        case = problem.case
        shapes: list[tuple[int | None, ...] | None] = []

        def results(x: Tensor, w: Tensor, dy: Tensor, u: Tensor, v: Tensor) -> dict[str, Tensor]:
            op = self._op(case)
            arguments = case.arguments()
            found, shape = _differentiated(lambda a, b: _tensor(op(a, b, **arguments)), (x, w, dy, u, v), wanted)
            shapes.append(shape)
            return found

        with tf.device(f"/{case.device}:0"):
            # Copied: TensorFlow may share an array's memory, and a target may overwrite it.
            tensors = [tf.constant(a.copy()) for a in (problem.x, problem.w, problem.dy, problem.u, problem.v)]
        function = _in_mode(results, case, tensors)

        def run() -> Outputs:
            with tf.device(f"/{case.device}:0"):
                found = function(*tensors)
            arrays = {name: as_array(tensor) for name, tensor in found.items()}
            return Outputs(arrays, shapes[0], [as_array(tensor) for tensor in tensors[:2]])

        return run

    def call_malformed(self, problem: Problem) -> Any:
        case = problem.case
        call = MALFORMED[case.bad]({"input": problem.x, "filter": problem.w, **case.arguments()})
        with tf.device(f"/{case.device}:0"):
            tensors = [tf.constant(call.pop(name)) for name in ("input", "filter")]

            def result(x: Tensor, w: Tensor) -> Tensor:
                return self._op(case)(x, w, **call)

            return as_array(_in_mode(result, case, tensors)(*tensors))

    def _op(self, case: Case) -> Op:
        return self.op if case.mode == "eager" else self._in_graph


def _handed_on(op: Op) -> Op:
    """A function, which AutoGraph wants, whatever kind of callable this is."""

    def call(input: Tensor, filter: Tensor, **arguments: Any) -> Tensor:
        return op(input, filter, **arguments)

    return call


def _in_mode(function: Callable[..., Any], case: Case, tensors: list[Tensor]) -> Callable[..., Any]:
    if case.mode == "eager":
        return function
    # A target's module may have set it, to be debugged; then nothing below would be a graph.
    tf.config.run_functions_eagerly(False)
    # The filter is always known, as the stock op requires.
    x, w, *others = (tensor.shape for tensor in tensors)
    shapes = [case.traced(x), w]
    if others:
        dy, u, v = others
        shapes += [case.traced(dy), case.traced(u), v]
    signature = [tf.TensorSpec(shape, tensor.dtype) for shape, tensor in zip(shapes, tensors, strict=True)]
    traced: Callable[..., Any] = tf.function(
        function, autograph=False, input_signature=signature, jit_compile=case.mode == "xla"
    )
    return traced


def _differentiated(
    op: Callable[[Tensor, Tensor], Tensor], tensors: tuple[Tensor, ...], wanted: Collection[str]
) -> tuple[dict[str, Tensor], tuple[int | None, ...] | None]:
    """The wanted results by name, None gradients left out, and the output's static shape."""
    x, w, dy = tensors[:3]
    found: dict[str, Tensor] = {}
    second = set(wanted) & set(SECOND_ORDER)
    first = set(wanted) & set(FIRST_ORDER[1:])
    if not second and not first:
        y = op(x, w)
        return {"value": y}, _static(y)
    with tf.GradientTape(persistent=True) as outer:
        if second:
            outer.watch([x, w, dy])
        with tf.GradientTape() as inner:
            inner.watch([x, w])
            y = op(x, w)
        if tf.executing_eagerly():
            op(*tensors[3:])  # in between, as a network calls a layer again: what that leaves is not to be used
        # One tape for both gradients, as training has it, unless one of them alone is asked for.
        sources = {"input_grad": x, "filter_grad": w}
        names = [name for name in sources if second or name in first]
        gradients = inner.gradient(y, [sources[name] for name in names], output_gradients=dy)
        found = {"value": y, **dict(zip(names, gradients, strict=True))}
        if second:
            found |= _second(outer, found, tensors)
    return {name: tensor for name, tensor in found.items() if tensor is not None and name in wanted}, _static(y)


def _second(tape: Any, found: dict[str, Tensor], tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
    x, w, dy, u, v = tensors
    with tape.stop_recording():
        of_dx = tape.gradient(found["input_grad"], [w, dy], output_gradients=u)
        of_dw = tape.gradient(found["filter_grad"], [x, dy], output_gradients=v)
    return dict(zip(SECOND_ORDER, [*of_dx, *of_dw], strict=True))


def _tensor(y: Any) -> Tensor:
    """What a target returned, if it may."""
    if isinstance(y, tf.Tensor):
        return y
    raise TypeError(
        f"a target must return a tf.Tensor, got {type(y).__name__} (around other code, tf.numpy_function makes one,"
        " and tf.custom_gradient differentiates it)"
    )


def _static(y: Tensor) -> tuple[int | None, ...] | None:
    return tuple(y.shape) if y.shape.rank is not None else None
