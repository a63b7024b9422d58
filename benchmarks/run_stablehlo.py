"""Runs exported StableHLO on the device that JAX finds: checks the values, and times them against JAX's convolution.

    python -m benchmarks.run_stablehlo FOLDER [--json FILE]

Needs NumPy and JAX alone: with a GPU build of JAX this is the fused lowering on a real GPU. The rival is
`jax.lax.conv_general_dilated` with `feature_group_count`, which is what the stock op becomes under XLA.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import backend

from benchmarks.alternate import alternate
from benchmarks.case import Case, parse
from benchmarks.stablehlo import inputs


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line per contraction; exits with 1 where a value is out of its bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_stablehlo", description="Runs exported StableHLO.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each figure (0.3)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    device = jax.devices()[0]
    print(f"JAX {jax.__version__} on {device.device_kind} ({device.platform})")
    print(
        f"{'case':<32}{'contraction':<13}{'taps ms':>9}{'conv ms':>9}{'ratio':>7}{'noise':>7}{'compile s':>10}"
        f"{'error':>7}"
    )
    lines = []
    for module in sorted(options.folder.glob("*/module.mlir")):
        line = run(module.parent, device, options.seconds)
        lines.append(line)
        print(
            f"{line['case']:<32}{line['contraction']:<13}{line['taps_ms']:>9.3f}{line['conv_ms']:>9.3f}"
            f"{line['taps_ms'] / line['conv_ms']:>7.2g}{line['noise']:>7.0%}{line['compile_s']:>10.2f}"
            f"{line['error']:>7.2f}",
            flush=True,
        )
    print("error: the largest in units of its bound; at most 1 is right. noise: how far two runs of the same differ.")
    if options.json:
        options.json.write_text(
            json.dumps({"device": device.device_kind, "jax": jax.__version__, "lines": lines}, indent=1)
        )
    if not lines or any(line["error"] > 1 for line in lines):
        sys.exit("no module was found" if not lines else "a value is out of its bound")


def run(folder: Path, device: Any, budget_s: float) -> dict[str, Any]:
    """Checks and times one module.

    Args:
      folder: what `export_stablehlo.export` wrote.
      device: a JAX device.
      budget_s: seconds for each of the two that are timed.

    Returns:
      Case, contraction, the two times, their noise, the time to compile, and the largest error in units of its bound.
    """
    check = np.load(folder / "check.npz")
    case, contraction = parse(str(check["case"])), str(check["contraction"])
    arrays = inputs(case, contraction)
    if not np.isclose(sum(array.astype(np.float64).sum() for array in arrays), check["inputs_sum"], rtol=1e-9):
        raise ValueError(f"{folder}: this NumPy draws other random numbers than the one that wrote the check")
    a, b = (jax.device_put(array, device) for array in arrays)
    start = time.perf_counter()
    execute = load((folder / "module.mlir").read_text(), device)
    compile_s = time.perf_counter() - start
    result = np.asarray(execute(a, b)).astype(np.float64).reshape(-1)[check["at"]]
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.abs(result - check["expected"])
        units = np.where(difference == 0, 0.0, difference / check["bound"])
    rival = jax.jit(convolution(case, contraction))
    calls: dict[str, Callable[[], object]] = {
        "taps": lambda: execute(a, b).block_until_ready(),
        "conv": lambda: rival(a, b).block_until_ready(),
    }
    for call in calls.values():
        call()
    times = alternate(calls, budget_s)
    return {
        "case": str(case),
        "contraction": contraction,
        "taps_ms": times["taps"].wall_ms,
        "conv_ms": times["conv"].wall_ms,
        "noise": max(t.noise for t in times.values()),
        "compile_s": compile_s,
        "error": float(np.nan_to_num(units.max(), nan=np.inf)),
    }


def load(text: str, device: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A StableHLO module as a function of JAX arrays."""
    from jaxlib import xla_client  # private to JAX, which has no public way to run StableHLO text

    client = backend.get_backend(device.platform)
    devices = xla_client.DeviceList((device,))
    executable = client.compile_and_load(text, devices, xla_client.CompileOptions())

    def execute(a: jax.Array, b: jax.Array) -> jax.Array:
        return executable.execute([a, b])[0]

    return execute


def convolution(case: Case, contraction: str) -> Callable[[Any, Any], Any]:
    """The same contraction through `jax.lax.conv_general_dilated`."""

    def forward(x: Any, w: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x,
            w.reshape(*case.kernel, 1, case.channels * case.multiplier),
            case.strides,
            case.pads,
            rhs_dilation=case.dilations,
            dimension_numbers=(case.data_format, "HWIO", case.data_format),
            feature_group_count=case.channels,
        )

    x, w = (jax.ShapeDtypeStruct(shape, case.dtype) for shape in (case.input_shape, case.filter_shape))
    if contraction == "output":
        return forward
    if contraction == "input_grad":
        return lambda w, dy: jax.linear_transpose(lambda x: forward(x, w), x)(dy)[0]
    return lambda x, dy: jax.linear_transpose(lambda w: forward(x, w), w)(dy)[0]


if __name__ == "__main__":
    main()
