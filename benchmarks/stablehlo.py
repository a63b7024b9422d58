"""What writer and runner of StableHLO exports agree on: names and inputs. NumPy alone."""

from __future__ import annotations

from typing import Any

import ml_dtypes  # both TensorFlow and JAX depend on it
import numpy as np

from benchmarks.case import Case


def unit(case: Case, contraction: str) -> str:
    """The name of the folder of one contraction of one case."""
    return f"{str(case).replace(' ', '_')}-{contraction}"


def inputs(case: Case, contraction: str) -> tuple[Any, Any]:
    """The two tensors that a contraction is made of: (x, w), (w, dy) or (x, dy)."""
    shapes = {"x": case.input_shape, "w": case.filter_shape, "dy": case.output_shape}
    dtype = ml_dtypes.bfloat16 if case.dtype == "bfloat16" else np.dtype(case.dtype)
    names = {"output": "xw", "input_grad": ("w", "dy"), "filter_grad": ("x", "dy")}[contraction]
    first, second = (
        np.random.default_rng(seed).standard_normal(shapes[name], np.float32).astype(dtype)
        for seed, name in enumerate(names)
    )
    return first, second
