"""PyTorch: `torch.nn.functional.conv2d` with as many groups as channels."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from depthwise.conformance.case import Case
from depthwise.conformance.data import SECOND_ORDER, Problem
from depthwise.conformance.targets.base import Array, Outputs

torch: Any = importlib.import_module("torch")  # optional: where it is missing there are no types to check either

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class TorchTarget:
    """Runs eagerly; a graph, unknown dimensions and XLA are TensorFlow's."""

    def devices(self) -> list[str]:
        return ["CPU", "GPU"] if torch.cuda.is_available() else ["CPU"]

    def versions(self) -> dict[str, str]:
        return {"torch": str(torch.__version__)}

    def prepare(self, problem: Problem, wanted: Collection[str]) -> Callable[[], Outputs]:
        case = problem.case
        if case.mode != "eager" or case.dtype not in _DTYPES:
            raise NotImplementedError(f"PyTorch is run eagerly on {', '.join(_DTYPES)}")
        if set(wanted) & set(SECOND_ORDER):
            raise NotImplementedError("PyTorch is asked for first derivatives")
        device = "cuda" if case.device == "GPU" else "cpu"
        x, w, dy = (_tensor(a, case, device) for a in (problem.x, problem.w, problem.dy))

        def run() -> Outputs:
            x.grad = w.grad = None
            y = _convolve(x, w, case)
            arrays = {"value": _array(y, problem)}
            gradients = [name for name in ("input_grad", "filter_grad") if name in wanted]
            if gradients:
                y.backward(dy.detach())
                found = {"input_grad": x.grad, "filter_grad": w.grad}
                arrays |= {name: _array(found[name], problem) for name in gradients if found[name] is not None}
            return Outputs({n: arrays[n] for n in arrays if n in wanted}, None, [_array(a, problem) for a in (x, w)])

        return run

    def call_malformed(self, problem: Problem) -> Any:
        raise NotImplementedError("PyTorch has arguments of its own")


def target() -> TorchTarget:
    """PyTorch."""
    return TorchTarget()


def _tensor(array: Array, case: Case, device: str) -> Any:
    tensor = torch.from_numpy(array.astype(np.float64)).to(device=device, dtype=_DTYPES[case.dtype])
    return tensor.requires_grad_()


def _array(tensor: Any, problem: Problem) -> Array:
    """The tensor's values in the problem's dtype, if that is what it has: a wrong dtype must stay visible."""
    if tensor.dtype != _DTYPES[problem.case.dtype]:
        return np.array(tensor.detach().cpu().to(torch.float64))
    return np.array(tensor.detach().cpu().to(torch.float64)).astype(problem.dtype)


def _convolve(x: Any, w: Any, case: Case) -> Any:
    kh, kw, channels, multiplier = w.shape
    if 0 in (channels, multiplier):
        raise NotImplementedError("PyTorch has no convolution with zero groups or channels")
    images = x if case.format == "NCHW" else x.permute(0, 3, 1, 2)
    # [kh, kw, C, M] -> [C*M, 1, kh, kw]: group k's outputs are k*M to k*M + M - 1, as in TensorFlow.
    filters = w.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, kh, kw)
    (top, bottom), (left, right) = case.pads  # PyTorch's "same" knows no strides
    padded = torch.nn.functional.pad(images, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, filters, stride=case.strides, dilation=case.dilations, groups=channels)
    return y if case.format == "NCHW" else y.permute(0, 2, 3, 1)
