"""Peak memory of a call, as the operating system counts it: for frameworks that do not count it themselves."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident_peak_mb(call: Callable[[], object]) -> float | None:
    """Megabytes (2**20 bytes) by which a call raises the process's resident memory, results included.

    Returns:
      None where the operating system does not say: this needs Linux's /proc.
    """
    try:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # else what earlier calls left to the allocator would hide the need
        before = _resident("VmRSS")
        _CLEAR.write_text("5")  # the peak becomes what is resident now
        call()
        return max(0, _resident("VmHWM") - before) / 1024
    except OSError:
        return None


def _resident(field: str) -> int:
    match = re.search(rf"{field}:\s*(\d+) kB", _STATUS.read_text())
    if match is None:
        raise OSError(f"{_STATUS} has no {field}")
    return int(match[1])
