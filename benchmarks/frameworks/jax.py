"""JAX's grouped convolution, which XLA compiles as it does TensorFlow's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.case import BYTES, Case
from benchmarks.measurement import FLOOR, PER_EXAMPLE
from benchmarks.memory import resident_peak_mb as peak_mb  # noqa: F401

IMPLEMENTATIONS: dict[str, tuple[str, ...]] = {f"jax {FLOOR}": ("xla",), "jax": ("xla",)}

jax.config.update("jax_enable_x64", True)


def prepare(case: Case, implementation: str, mode: str, quantity: str) -> Callable[[], Any]:
    """The call to measure."""
    if quantity == PER_EXAMPLE:
        raise NotImplementedError("gradients of single images are measured in TensorFlow alone")
    keys = jax.random.split(jax.random.key(1), 3)
    if implementation == f"jax {FLOOR}":
        data = jax.random.uniform(keys[0], (case.bytes_moved // 2 // BYTES[case.dtype],)).astype(case.dtype)
        double = jax.jit(lambda t: t * 2)
        return lambda: double(data).block_until_ready()
    outputs = case.channels * case.multiplier
    shapes = (case.input_shape, (*case.kernel, 1, outputs), case.output_shape)
    x, w, dy = (jax.random.normal(key, shape).astype(case.dtype) for key, shape in zip(keys, shapes, strict=True))

    def forward(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            w,
            case.strides,
            case.pads,
            rhs_dilation=case.dilations,
            dimension_numbers=(case.data_format, "HWIO", case.data_format),
            feature_group_count=case.channels,
        )

    def gradients(x: jax.Array, w: jax.Array, dy: jax.Array) -> Any:
        y, backward = jax.vjp(forward, x, w)
        dx, dw = backward(dy)
        return {"input_grad": dx, "filter_grad": dw, "step": (y, dx, dw)}[quantity]

    if quantity == "output":
        compiled = jax.jit(forward)
        return lambda: jnp.asarray(compiled(x, w)).block_until_ready()
    jitted = jax.jit(gradients)
    return lambda: jax.block_until_ready(jitted(x, w, dy))
