"""What a report says about the run as a whole: versions, machine, flags and options."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_FLAGS = ("TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS", "TF_XLA_FLAGS", "TF_DETERMINISTIC_OPS", "CUDA_VISIBLE_DEVICES")
_PACKAGES = ("depthwise", "tensorflow", "keras", "numpy", "torch", "jax", "ai-edge-litert")


def header(options: dict[str, Any]) -> dict[str, Any]:
    """Versions of what is installed, the machine, the environment's flags, and the options of the run."""
    return {
        "versions": {"python": platform.python_version(), **_installed()},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
        "flags": {name: os.environ[name] for name in _FLAGS if name in os.environ},
        "options": options,
    }


def _installed() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
