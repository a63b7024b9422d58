"""LiteRT: the op converted to a flat buffer, and run by its interpreter."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from importlib.metadata import version
from typing import Any

import numpy as np
import tensorflow as tf
from depthwise.conformance.data import Problem
from depthwise.conformance.targets.base import Outputs
from depthwise.ops import depthwise_conv2d

# Optional: where it is missing there are no types to check either.
Interpreter: Any = importlib.import_module("ai_edge_litert.interpreter").Interpreter


class LiteRTTarget:
    """Values in float32 of graphs with known shapes; LiteRT has no gradients."""

    def devices(self) -> list[str]:
        return ["CPU"]

    def versions(self) -> dict[str, str]:
        return {"tensorflow": str(tf.__version__), "litert": version("ai-edge-litert")}

    def prepare(self, problem: Problem, wanted: Collection[str]) -> Callable[[], Outputs]:
        case = problem.case
        if case.mode != "graph" or case.dtype != "float32" or set(wanted) != {"value"}:
            raise NotImplementedError("LiteRT runs graphs of float32, forwards")
        if 0 in (*case.input_shape, *case.output_shape):
            raise NotImplementedError("LiteRT has no empty tensors")
        weights = tf.constant(problem.w)

        def function(x: Any) -> Any:
            return depthwise_conv2d(x, weights, **case.arguments())

        signature = [tf.TensorSpec(case.input_shape, tf.float32)]
        graph = tf.function(function, input_signature=signature, autograph=False).get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([graph])
        interpreter = Interpreter(model_content=converter.convert())
        interpreter.allocate_tensors()
        place = interpreter.get_input_details()[0]["index"]

        def run() -> Outputs:
            interpreter.set_tensor(place, problem.x)
            interpreter.invoke()
            value = np.array(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
            return Outputs({"value": value}, None, [problem.x, problem.w])

        return run

    def call_malformed(self, problem: Problem) -> Any:
        raise NotImplementedError("LiteRT has no arguments")


def target() -> LiteRTTarget:
    """LiteRT."""
    return LiteRTTarget()
