"""A failure as a standalone script: TensorFlow and NumPy alone, the data drawn again and the formula written out."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from depthwise.conformance.checks import checks_of, results_of
from depthwise.conformance.data import Problem
from depthwise.conformance.malformed import MALFORMED
from depthwise.conformance.results import Result
from depthwise.conformance.tolerance import unit_roundoffs
from jinja2 import Environment, PackageLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=PackageLoader("depthwise.conformance", "templates"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)

# How each result is had: the contraction that it is, its operands, the tape's source, and for the second order what
# the first tape differentiates by and with which cotangent the second one starts.
_RESULTS: dict[str, dict[str, Any]] = {
    "value": {"contraction": "value", "operands": "x, w"},
    "input_grad": {"contraction": "input_grad", "operands": "w, dy", "source": "x"},
    "filter_grad": {"contraction": "filter_grad", "operands": "x, dy", "source": "w"},
    "dx_by_filter": {"contraction": "filter_grad", "operands": "u, dy", "source": "w"},
    "dx_by_cotangent": {"contraction": "value", "operands": "u, w", "source": "dy"},
    "dw_by_input": {"contraction": "input_grad", "operands": "v, dy", "source": "x"},
    "dw_by_cotangent": {"contraction": "value", "operands": "x, v", "source": "dy"},
}


def possible(target: str) -> bool:
    """Whether a target can be called from a script: PyTorch's, JAX's and LiteRT's have arguments of their own."""
    return target not in ("torch", "jax", "litert")


def script(result: Result) -> str:
    """The text of a script that shows a failure, usually a shrunk one.

    Returns:
      Python source. It exits 1 (or crashes) where the failure shows, and 0 where it doesn't.
    """
    case = result.case
    module, call, environment = _how_to_call(result.target)
    asked = _asked(result)
    how = _RESULTS[asked[0]]
    problem = Problem(case)
    nan_too = None if case.bad else problem.expected(asked[0]).nan_too
    unit, unit_out = unit_roundoffs(case.dtype) if "int" not in case.dtype else (0.0, 0.0)
    arguments = case.arguments()
    malformed: dict[str, Any] = {}
    if case.bad:
        malformed = MALFORMED[case.bad]({"input": problem.x, "filter": problem.w, **arguments})
        arguments = {name: malformed[name] for name in arguments}
    return _TEMPLATES.get_template("repro.py.j2").render(
        result=result,
        detail=textwrap.wrap(result.detail, 118),
        case=case,
        problem=problem,
        module=module,
        call=call,
        environment=environment,
        arguments=arguments,
        malformed=malformed,
        asked=asked,
        first="x" if asked[0].startswith("dx") else "w",
        cotangent="u" if asked[0].startswith("dx") else "v",
        source=how.get("source", ""),
        contraction=how["contraction"],
        operands=how["operands"],
        may_be_nan=[] if nan_too is None else [tuple(map(int, at)) for at in np.argwhere(nan_too)],
        integers=case.data == "integer" or "int" in case.dtype,
        complex="complex" in case.dtype,
        traced=[case.traced(shape) for shape in (np.shape(malformed.get("input", problem.x)), case.output_shape)],
        jit=", jit_compile=True" if case.mode == "xla" else "",
        before=tuple(before for before, _ in case.pads),
        unit=unit,
        unit_out=unit_out,
    )


def write(folder: Path, result: Result) -> Path:
    """Writes the script into a folder, which is made; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    words = f"{result.target} {result.check} {result.case}"
    path = folder / (re.sub(r"[^A-Za-z0-9]+", "_", words)[:150] + ".py")
    path.write_text(script(result), encoding="utf-8")
    return path


def _asked(result: Result) -> tuple[str, ...]:
    """The results that it takes to show the failure."""
    if len(result.shown_by) > 1:  # all of them; a shrunk case may have fewer
        return results_of(checks_of(result.case))
    return result.shown_by or ((result.check,) if result.check in _RESULTS else ("value",))


def _how_to_call(target: str) -> tuple[str, str, dict[str, str]]:
    """The import, the callable and the environment that stand for a target."""
    source, _, attribute = target.rpartition(":")
    if target in ("tf", "tf-no-onednn"):
        return "", "tf.nn.depthwise_conv2d", {"TF_ENABLE_ONEDNN_OPTS": "0"} if target != "tf" else {}
    if target == "depthwise":
        return "from depthwise.ops import depthwise_conv2d", "depthwise_conv2d", {}
    if source in ("", "fault", "depthwise") or source.endswith(".py"):
        # Once: a target may be another the second time that it is called.
        return f"from depthwise.conformance.targets import resolve\n\nop = resolve({target!r}).op", "op", {}
    return f'import sys\n\nsys.path.append(".")\nfrom {source} import {attribute}', attribute, {}
