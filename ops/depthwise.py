"""depthwise_conv2d and explain: the op's public face."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import tensorflow as tf
from depthwise.ops import choose
from depthwise.ops.choose import Explanation
from depthwise.ops.gradients import Trilinear
from depthwise.ops.lowerings import LOWERINGS as _LOWERINGS
from depthwise.ops.spec import ConvSpec, canonicalize, check_name

LOWERINGS: tuple[str, ...] = tuple(_LOWERINGS)
"""Names of the lowerings that can be asked for; "auto" chooses among them."""


def depthwise_conv2d(
    input: Any,
    filter: Any,
    strides: Sequence[int],
    padding: str | Sequence[Sequence[int]],
    data_format: str | None = None,
    dilations: int | Sequence[int] | None = None,
    name: str | None = None,
    *,
    lowering: str = "auto",
) -> tf.Tensor:
    """Depthwise 2-D convolution: what `tf.nn.depthwise_conv2d` documents."""
    check_name(name)
    # Eager ops have no names: a scope for them would be a tenth of a small call's time.
    with nullcontext() if tf.executing_eagerly() else tf.name_scope(name or "depthwise_conv2d"):
        spec, input, filter = canonicalize(input, filter, strides, padding, data_format, dilations)
        return _contractions(spec, lowering, choose.being_compiled()).output(input, filter)


def explain(
    input: Any,
    filter: Any,
    strides: Sequence[int],
    padding: str | Sequence[Sequence[int]],
    data_format: str | None = None,
    dilations: int | Sequence[int] | None = None,
    name: str | None = None,
    *,
    lowering: str = "auto",
) -> Explanation:
    """Which lowering the output and the two gradients of `depthwise_conv2d` would take here, and why."""
    check_name(name)
    spec, _, _ = canonicalize(input, filter, strides, padding, data_format, dilations)
    return choose.explanation(spec, lowering, choose.being_compiled())


@lru_cache(maxsize=4096)
def _contractions(spec: ConvSpec, lowering: str, compiled: bool) -> Trilinear:
    return Trilinear(spec, choose.plan(spec, lowering, compiled))
