"""JAX: `jax.lax.conv_general_dilated` with as many feature groups as channels, which XLA compiles."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from depthwise.conformance.case import Case
from depthwise.conformance.data import SECOND_ORDER, Problem
from depthwise.conformance.targets.base import Outputs

jax: Any = importlib.import_module("jax")  # optional: where it is missing there are no types to check either
jax.config.update("jax_enable_x64", True)


class JaxTarget:
    """Runs as it is (eager) and under `jax.jit` (xla); graphs and unknown dimensions are TensorFlow's."""

    def devices(self) -> list[str]:
        return sorted({"GPU" if device.platform == "gpu" else device.platform.upper() for device in jax.devices()})

    def versions(self) -> dict[str, str]:
        return {"jax": str(jax.__version__)}

    def prepare(self, problem: Problem, wanted: Collection[str]) -> Callable[[], Outputs]:
        case = problem.case
        if case.mode not in ("eager", "xla") or case.unknown:
            raise NotImplementedError("JAX runs as it is or compiled")
        if set(wanted) & set(SECOND_ORDER):
            raise NotImplementedError("JAX is asked for first derivatives")
        if "complex" in case.dtype:
            raise NotImplementedError("JAX doesn't conjugate where TensorFlow does")

        def results(x: Any, w: Any, dy: Any) -> dict[str, Any]:
            if not set(wanted) - {"value"}:
                return {"value": _convolve(x, w, case)}
            y, backward = jax.vjp(lambda a, b: _convolve(a, b, case), x, w)
            dx, dw = backward(dy)
            found = {"value": y, "input_grad": dx, "filter_grad": dw}
            return {name: found[name] for name in wanted}

        device = jax.devices("gpu" if case.device == "GPU" else case.device.lower())[0]
        arrays = [jax.device_put(a, device) for a in (problem.x, problem.w, problem.dy)]
        function = jax.jit(results) if case.mode == "xla" else results

        def run() -> Outputs:
            found = {name: np.array(array) for name, array in function(*arrays).items()}
            return Outputs(found, None, [np.array(array) for array in arrays[:2]])

        return run

    def call_malformed(self, problem: Problem) -> Any:
        raise NotImplementedError("JAX has arguments of its own")


def target() -> JaxTarget:
    """JAX."""
    return JaxTarget()


def _convolve(x: Any, w: Any, case: Case) -> Any:
    kh, kw, channels, multiplier = w.shape
    if 0 in (channels, multiplier):
        raise NotImplementedError("JAX has no convolution with zero groups or channels")
    return jax.lax.conv_general_dilated(
        x,
        w.reshape(kh, kw, 1, channels * multiplier),
        case.strides,
        case.padding,
        rhs_dilation=case.dilations,
        dimension_numbers=(case.format, "HWIO", case.format),
        feature_group_count=channels,
        precision=jax.lax.Precision.HIGHEST,
    )
