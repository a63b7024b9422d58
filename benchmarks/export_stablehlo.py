"""Writes the taps lowering as StableHLO, with what is needed to run and check it where there is no TensorFlow.

    python -m benchmarks.export_stablehlo FOLDER
    python -m benchmarks.run_stablehlo FOLDER        (needs NumPy and JAX alone)

A folder per case and contraction holds `module.mlir` and `check.npz`: the case, the seed of its inputs, and at sampled
positions the value from float64 with the largest error that a correct result can show there (conformance/tolerance.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from depthwise.conformance import oracle
from depthwise.conformance.tolerance import error_bound
from depthwise.ops.gradients import Trilinear
from depthwise.ops.lowerings import BY_NAME
from depthwise.ops.lowerings.base import Plan
from depthwise.ops.spec import canonicalize
from rich.console import Console
from rich.progress import track

from benchmarks.case import Case, parse
from benchmarks.measurement import CONTRACTIONS
from benchmarks.stablehlo import inputs, unit

CASES = (
    "8x112x112x32 k3",
    "8x112x112x64 k3 s2",
    "8x56x56x128 k3",
    "8x14x14x512 k3",
    "8x28x28x192 k5",
    "8x56x56x96 k7",
    "8x56x56x128 k3 NCHW",
    "8x56x56x128 k3 d2",
    "8x56x56x128 k3 bfloat16",
    "2x32x32x64 k31",
)
SAMPLES = 65536
"""Most positions whose values are stored."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export_stablehlo", description="Exports StableHLO.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", action="append", help="may be repeated; a list of everyday cases if not given")
    parser.add_argument("--lowering", default="taps")
    options = parser.parse_args(arguments)
    for text in track(options.case or CASES, "exporting", console=Console(stderr=True), transient=True):
        for contraction in CONTRACTIONS:
            export(options.folder, parse(text), contraction, options.lowering)


def export(folder: Path, case: Case, contraction: str, lowering: str = "taps") -> Path:
    """Writes one contraction of one case, and returns its folder."""
    a, b = inputs(case, contraction)
    place = folder / unit(case, contraction)
    place.mkdir(parents=True, exist_ok=True)
    compiled = tf.function(_function(case, contraction, lowering), jit_compile=True, autograph=False)
    text = compiled.experimental_get_compiler_ir(tf.constant(a), tf.constant(b))(stage="stablehlo")
    (place / "module.mlir").write_text(text)
    np.savez_compressed(place / "check.npz", **_expected(case, contraction, a, b))
    return place


def _function(case: Case, contraction: str, lowering: str) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """(first, second) -> the contraction, of the two tensors that it is made of."""
    compute = BY_NAME[lowering]

    def function(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        # The record wants an input and a filter, of which a gradient has only one: any of the right shape will do.
        operands = (tf.zeros(shape, case.dtype) for shape in (case.input_shape, case.filter_shape))
        spec = canonicalize(*operands, **case.arguments())[0]
        contractions = Trilinear(spec, Plan(compute, compute, compute))  # as the op has them: half types are widened
        if contraction == "output":
            return contractions.output(a, b)
        sizes = case.input_shape if contraction == "input_grad" else case.filter_shape
        return getattr(contractions, contraction)(a, b, sizes)

    return function


def _expected(case: Case, contraction: str, a: Any, b: Any) -> dict[str, Any]:
    """Values and error bounds at sampled positions."""
    geometry: dict[str, Any] = {
        "strides": case.strides,
        "padding": case.pads,
        "dilations": case.dilations,
        "data_format": case.data_format,
    }
    contractions: dict[str, tuple[oracle.Contraction, dict[str, Any]]] = {
        "output": (oracle.value, {}),
        "input_grad": (oracle.input_grad, {"input_shape": case.input_shape}),
        "filter_grad": (oracle.filter_grad, {"filter_shape": case.filter_shape}),
    }
    function, extra = contractions[contraction]
    geometry |= extra
    a, b = a.astype(np.float64), b.astype(np.float64)
    expected = function(a, b, **geometry)
    magnitude = oracle.magnitude(function, a, b, **geometry)
    terms = oracle.terms(function, a, b, **geometry)
    size = expected.size
    at = np.sort(np.random.default_rng(0).choice(size, min(size, SAMPLES), replace=False))
    values, magnitude, terms = (array.reshape(-1)[at] for array in (expected, magnitude, terms))
    return {
        "case": str(case),
        "contraction": contraction,
        "inputs_sum": a.sum() + b.sum(),
        "at": at,
        "expected": values,
        "bound": error_bound(values, magnitude, terms, case.dtype),
    }


if __name__ == "__main__":
    main()
