"""Which cases are measured together: the depthwise layers of real models, and variations on everyday cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.case import Case, parse


@dataclass(frozen=True)
class Row:
    """A case in a suite.

    Attributes:
      case: what is measured.
      layers: how many layers of the model are like it; geometric means are weighted by it.
      near: for a variation, the case that it varies.
    """

    case: Case
    layers: int = 1
    near: Case | None = None


# height x width x channels, kernel, stride, padding: number of layers. Read off keras.applications (Keras 3.15) models,
# whose strided layers pad with ZeroPadding2D of their own, and therefore are VALID and see odd sizes.
_MOBILENET_V2_96 = {
    "48x48x32 k3": 1,
    "49x49x96 k3 s2 VALID": 1,
    "24x24x144 k3": 1,
    "25x25x144 k3 s2 VALID": 1,
    "12x12x192 k3": 2,
    "13x13x192 k3 s2 VALID": 1,
    "6x6x384 k3": 4,
    "6x6x576 k3": 2,
    "7x7x576 k3 s2 VALID": 1,
    "3x3x960 k3": 3,
}
_MOBILENET_V2 = {
    "112x112x32 k3": 1,
    "113x113x96 k3 s2 VALID": 1,
    "56x56x144 k3": 1,
    "57x57x144 k3 s2 VALID": 1,
    "28x28x192 k3": 2,
    "29x29x192 k3 s2 VALID": 1,
    "14x14x384 k3": 4,
    "14x14x576 k3": 2,
    "15x15x576 k3 s2 VALID": 1,
    "7x7x960 k3": 3,
}
_EFFICIENTNET_B0 = {
    "112x112x32 k3": 1,
    "113x113x96 k3 s2 VALID": 1,
    "56x56x144 k3": 1,
    "59x59x144 k5 s2 VALID": 1,
    "28x28x240 k5": 1,
    "29x29x240 k3 s2 VALID": 1,
    "14x14x480 k3": 2,
    "14x14x480 k5": 1,
    "14x14x672 k5": 2,
    "17x17x672 k5 s2 VALID": 1,
    "7x7x1152 k5": 3,
    "7x7x1152 k3": 1,
}
_CONVNEXT_TINY = {"56x56x96 k7": 3, "28x28x192 k7": 3, "14x14x384 k7": 9, "7x7x768 k7": 3}
# RepLKNet-31B at 224: the large kernels of Ding et al., Scaling Up Your Kernels to 31x31 (CVPR 2022).
_REPLKNET = {"56x56x128 k31": 2, "28x28x256 k29": 2, "14x14x512 k27": 18, "7x7x1024 k13": 2}
# DeepLabV3+ at 513, output stride 16, behind MobileNetV2 and Xception: the separable form of its spatial pyramid (Chen
# et al., Encoder-Decoder with Atrous Separable Convolution, ECCV 2018).
_ASPP = {f"33x33x{channels} k3 d{rate}": 1 for channels in (320, 2048) for rate in (6, 12, 18)}

_SEVEN = (
    "8x112x112x32 k3",
    "8x112x112x64 k3 s2",
    "8x56x56x128 k3",
    "8x28x28x256 k3",
    "8x14x14x512 k3",
    "8x56x56x96 k7",
    "2x32x32x64 k31",
)
"""Three decades of shapes: the quick form."""

_NEAR = tuple(parse(text) for text in ("8x56x56x128 k3", "8x28x28x192 k5", "8x28x28x192 k7"))
_STRIDED = parse("8x56x56x128 k3 s2")


def _variations(batch: int) -> list[Row]:
    """Cases that differ from an everyday one in one respect or a few, whose cost per byte should be the same."""
    rows = [Row(replace(near, batch=batch)) for near in (*_NEAR, _STRIDED)]
    for usual in _NEAR:
        near = replace(usual, batch=batch)
        rows += [
            Row(replace(near, data_format="NCHW"), near=near),
            Row(replace(near, padding=usual.kernel[0] - 1), near=near),
            Row(replace(near, multiplier=2), near=near),
            Row(replace(near, multiplier=4), near=near),
            Row(replace(near, dtype="float64"), near=near),
            Row(replace(near, dtype="bfloat16"), near=near),
            Row(replace(near, dilations=(2, 2)), near=near),
            Row(replace(near, dilations=(4, 4)), near=near),
            Row(replace(near, batch=1), near=near),
        ]
    strided = replace(_STRIDED, batch=batch)
    rows += [
        Row(replace(strided, strides=(2, 1)), near=strided),
        Row(replace(strided, strides=(1, 2)), near=strided),
        Row(replace(strided, dilations=(2, 2)), near=strided),
        Row(replace(strided, data_format="NCHW"), near=strided),
        Row(replace(strided, data_format="NCHW", strides=(2, 1), dilations=(2, 2)), near=strided),
    ]
    return rows


def _scaling(batch: int) -> list[Row]:
    """One case, one of whose sizes grows."""
    near = parse("8x56x56x64 k3")
    cases = [replace(near, batch=n) for n in (1, 2, 4, 8, 16, 32)]
    cases += [replace(near, channels=n) for n in (8, 16, 32, 128, 256)]
    cases += [replace(near, kernel=(n, n)) for n in (1, 5, 7, 9, 11, 15, 21, 31)]
    return [Row(case) for case in cases]


def _model(layers: dict[str, int]) -> Callable[[int], list[Row]]:
    return lambda batch: [Row(parse(f"{batch}x{text}"), count) for text, count in layers.items()]


SUITES: dict[str, Callable[[int], list[Row]]] = {
    "seven": lambda batch: [Row(parse(text)) for text in _SEVEN],
    "mobilenetv2-96": _model(_MOBILENET_V2_96),
    "mobilenetv2": _model(_MOBILENET_V2),
    "efficientnetb0": _model(_EFFICIENTNET_B0),
    "convnexttiny": _model(_CONVNEXT_TINY),
    "replknet": _model(_REPLKNET),
    "variations": _variations,
    "dilated": lambda batch: [
        Row(parse(f"{batch}x{shape} d{rate}"))
        for shape in ("56x56x128 k3", "28x28x256 k3", "14x14x512 k3", "28x28x192 k5")
        for rate in (2, 4)
    ],
    "aspp": _model(_ASPP),
    "tiny": lambda batch: [Row(parse("1x8x8x8 k3"))],
    "scaling": _scaling,
}
"""Suites by name: from a batch size to rows ("seven", "tiny" and "scaling" fix their own)."""


def suite(name: str, batch: int) -> list[Row]:
    """The rows of a suite, each case once."""
    unique: dict[Case, Row] = {}
    for row in SUITES[name](batch):
        unique.setdefault(row.case, row)
    return list(unique.values())
