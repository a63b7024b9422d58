"""The targets: what each name stands for, and the process it needs.

This module imports no framework: the process that starts workers reads it too.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthwise.conformance.targets.base import Target

REFERENCE = "tf"


@dataclass(frozen=True)
class Entry:
    """A built-in target: the module and function that make it, what must be installed, and its environment."""

    module: str
    maker: str
    summary: str
    requires: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


_HERE = "depthwise.conformance.targets."

BUILT_IN: dict[str, Entry] = {
    "depthwise": Entry(_HERE + "ours", "auto", "depthwise.ops.depthwise_conv2d"),
    "layer": Entry(_HERE + "ours", "layer", "depthwise.layers.DepthwiseConv2D"),
    "keras": Entry(_HERE + "keras", "op", "keras.ops.depthwise_conv on the TensorFlow backend"),
    "keras-layer": Entry(_HERE + "keras", "layer", "keras.layers.DepthwiseConv2D"),
    "tf": Entry(_HERE + "stock", "op", "tf.nn.depthwise_conv2d, the reference"),
    "tf-no-onednn": Entry(
        _HERE + "stock", "op", "the same in a process without oneDNN", (), {"TF_ENABLE_ONEDNN_OPTS": "0"}
    ),
    "torch": Entry(_HERE + "torch", "target", "torch.nn.functional.conv2d with groups", ("torch",)),
    "jax": Entry(_HERE + "jax", "target", "jax.lax.conv_general_dilated with feature groups", ("jax",)),
    "litert": Entry(_HERE + "litert", "target", "depthwise_conv2d converted to LiteRT", ("ai_edge_litert",)),
}


def environment(name: str) -> dict[str, str]:
    """The environment variables that the target's process must start with."""
    return BUILT_IN[name].environment if name in BUILT_IN else {}


def missing(name: str) -> list[str]:
    """The modules that the target needs and that are not installed."""
    needed = BUILT_IN[name].requires if name in BUILT_IN else ()
    return [module for module in needed if importlib.util.find_spec(module) is None]


def resolve(name: str) -> Target:
    """The target that a name stands for; imports its framework.

    Args:
      name: a built-in name, "depthwise:LOWERING", "fault:NAME" (see `faults`), "module:callable" or "file.py:callable".
        A callable has the signature of `tf.nn.depthwise_conv2d` and raises NotImplementedError for what it doesn't
        support.

    Returns:
      The target.

    Raises:
      ValueError: the name stands for nothing.
    """
    if name in BUILT_IN:
        entry = BUILT_IN[name]
        target: Target = getattr(importlib.import_module(entry.module), entry.maker)()
        return target
    source, colon, attribute = name.rpartition(":")
    if not colon:
        raise ValueError(
            f"target must be one of {', '.join(BUILT_IN)}, depthwise:LOWERING, module:callable or file.py:callable,"
            f" got {name!r}"
        )
    if source == "depthwise":
        lowering: Target = importlib.import_module(_HERE + "ours").lowering(attribute)
        return lowering
    from depthwise.conformance.targets.tensorflow import TensorFlowTarget

    if source == "fault":
        from depthwise.conformance import faults

        return TensorFlowTarget(faults.load(attribute))
    found = getattr(_load(source), attribute, None)
    if not callable(found):
        raise ValueError(f"target {name!r}: {source!r} must define a callable {attribute!r}, found {found!r}")
    return TensorFlowTarget(found)


def _load(source: str) -> Any:
    if not source.endswith(".py"):
        return importlib.import_module(source)
    path = Path(source).resolve()
    spec = importlib.util.spec_from_file_location(f"target_{path.stem}", path)  # no name of another module's
    if spec is None or spec.loader is None or not path.exists():
        raise ValueError(f"target: {source!r} must be a Python file, found none")
    module = importlib.util.module_from_spec(spec)
    # As where Python runs the file: its neighbours are found, and classes find the module that they are of.
    sys.path.append(str(path.parent))
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
