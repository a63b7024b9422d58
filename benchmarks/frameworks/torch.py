"""PyTorch's grouped convolution, in both of its memory formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.case import BYTES, Case
from benchmarks.measurement import FLOOR, PER_EXAMPLE
from benchmarks.memory import resident_peak_mb as peak_mb  # noqa: F401

IMPLEMENTATIONS: dict[str, tuple[str, ...]] = {
    f"torch {FLOOR}": ("eager",),
    "torch channels_last": ("eager",),
    "torch contiguous": ("eager",),
}


def prepare(case: Case, implementation: str, mode: str, quantity: str) -> Callable[[], Any]:
    """The call to measure."""
    if quantity == PER_EXAMPLE:
        raise NotImplementedError("gradients of single images are measured in TensorFlow alone")
    dtype = getattr(torch, case.dtype)
    generator = torch.Generator().manual_seed(1)
    if implementation == f"torch {FLOOR}":
        data = torch.rand(case.bytes_moved // 2 // BYTES[case.dtype], generator=generator).to(dtype)
        return _finished(lambda: data * 2)
    memory_format = torch.channels_last if implementation == "torch channels_last" else torch.contiguous_format
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def tensor(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator).to(device=device, dtype=dtype)
        return values.to(memory_format=memory_format)

    outputs = case.channels * case.multiplier
    x = tensor(case.batch, case.channels, case.height, case.width)
    w = tensor(outputs, 1, *case.kernel)
    dy = tensor(case.batch, outputs, *case.output)
    (top, bottom), (left, right) = case.pads

    def forward() -> torch.Tensor:
        padding, image = (top, left), x
        if (top, left) != (bottom, right):
            padding, image = (0, 0), torch.nn.functional.pad(x, (left, right, top, bottom))
        return torch.nn.functional.conv2d(image, w, None, case.strides, padding, case.dilations, case.channels)

    if quantity == "output":
        with torch.no_grad():
            shape = tuple(forward().shape)
        assert shape == tuple(dy.shape), f"{shape} instead of {tuple(dy.shape)}"
        return _finished(lambda: _without_gradients(forward))
    x.requires_grad_(quantity != "filter_grad")
    w.requires_grad_(quantity != "input_grad")
    sources = [t for t in (x, w) if t.requires_grad]
    if quantity == "step":
        return _finished(lambda: torch.autograd.grad(forward(), sources, dy))
    y = forward()
    return _finished(lambda: torch.autograd.grad(y, sources, dy, retain_graph=True))


def _without_gradients(forward: Callable[[], torch.Tensor]) -> None:
    with torch.no_grad():
        forward()


def _finished(call: Callable[[], Any]) -> Callable[[], Any]:
    """On a GPU a call returns before its work is done."""
    if not torch.cuda.is_available():
        return call

    def wait() -> None:
        call()
        torch.cuda.synchronize()

    return wait
