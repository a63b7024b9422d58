"""Where the op stands: what will run the code that it writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeAlias

import tensorflow as tf

# Private: TensorFlow offers no public way to ask. tests/ops/test_mode.py notices if a release changes it.
try:
    from tensorflow.python.framework.op_callbacks import should_invoke_op_callbacks
except ImportError:  # pragma: no cover

    def should_invoke_op_callbacks() -> bool:
        return False


try:
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
except ImportError:  # pragma: no cover

    def GraphOrParentsInXlaContext(graph: tf.Graph) -> bool:  # noqa: N802
        return False


try:
    from tensorflow.python.ops.control_flow_v2_func_graphs import CondBranchFuncGraph
except ImportError:  # pragma: no cover
    CondBranchFuncGraph = ()


Mode: TypeAlias = Literal["eager", "graph", "export", "xla"]
"""Where the op stands: called eagerly, traced into a graph, into one that may be exported to another format, or into
one that XLA will compile."""


def is_under_xla() -> bool:
    """Whether what is traced now will be compiled by XLA, be it in a function or a branch or loop within."""
    return bool(GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def is_in_compiled_branch() -> bool:
    """Whether what is traced now is, or is called by, a branch of a conditional that XLA will compile."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and not isinstance(graph, CondBranchFuncGraph):
        graph = getattr(graph, "outer_graph", None)
    return graph is not None and is_under_xla()


def current_mode() -> Mode:
    """Where the caller stands: "eager"; "xla" in a function that XLA compiles, at any depth; "export" in another one
    under `without_islands`, or where a debugger adds to every op (`tf.debugging.enable_check_numerics`) what XLA does
    not know; else "graph"."""
    if tf.executing_eagerly():
        return "eager"
    if is_under_xla():
        return "xla"
    return "export" if _WITHOUT_ISLANDS.get() or should_invoke_op_callbacks() else "graph"


_WITHOUT_ISLANDS = ContextVar("without_islands", default=False)


@contextmanager
def without_islands() -> Iterator[None]:
    """While this lasts, "auto" takes no islands, nor do gradients of what is called here, and "native" computes outputs
    by one op each (elsewhere it repeats channels that have several outputs, for speed).

    For what is traced now to be written in another format, or to be served: converters do not know an island (ONNX), or
    take it apart into a hundred ops (LiteRT), and every shape is compiled at its first call.

    Example:
      >>> import tensorflow as tf
      >>> from depthwise.ops import depthwise_conv2d, without_islands
      >>> @tf.function(input_signature=[tf.TensorSpec([8, 128, 56, 56])])
      ... def served(x):
      ...     with without_islands():
      ...         return depthwise_conv2d(x, tf.ones([3, 3, 128, 1]), [1, 1, 1, 1], "SAME", "NCHW")
      >>> "PartitionedCall" in {op.type for op in served.get_concrete_function().graph.get_operations()}
      False
    """
    before = _WITHOUT_ISLANDS.set(True)
    try:
        yield
    finally:
        _WITHOUT_ISLANDS.reset(before)
