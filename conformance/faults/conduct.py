"""Faults in conduct: processes that end or hang, overwritten inputs, empty results, and bad calls that are accepted."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from depthwise.conformance.faults.base import Call, Tensor, op
from depthwise.ops import depthwise_conv2d


def _abort(call: Call) -> Tensor:
    if call.strides[0] != call.strides[1]:
        os.abort()
    return call.right()


def _segmentation_fault(call: Call) -> Tensor:
    if call.data_format == "NCHW" and call.dilations != (1, 1):
        ctypes.string_at(0)
    return call.right()


def _hang(call: Call) -> Tensor:
    if call.filter.shape[3] == 3:
        time.sleep(10**6)
    return call.right()


def _exit(call: Call) -> Tensor:
    if call.input.dtype == tf.float16:
        os._exit(0)
    return call.right()


def _overwrites_input(call: Call) -> Tensor:
    y = call.right()
    if tf.executing_eagerly() and tf.size(call.input) > 0:
        # Writes into the buffer that the caller still holds, as a kernel that reuses its input's memory does.
        tf.raw_ops.InplaceUpdate(x=call.input, i=[0], v=tf.zeros_like(call.input[:1]))
    return y


def _empty_batch_forgets_multiplier(call: Call) -> Tensor:
    y = call.right()
    if call.input.shape[0] != 0:
        return y
    channels = call.filter.shape[2]
    return y[..., :channels] if call.data_format == "NHWC" else y[:, :channels]


def _empty_raises(call: Call) -> Tensor:
    if 0 in call.input.shape.as_list():
        raise ValueError("input must not be empty")
    return call.right()


def _integers_refused(call: Call) -> Tensor:
    if call.input.dtype == tf.int32:
        raise TypeError("input must be of a floating type")
    return call.right()


def _accepting(change: Callable[[dict[str, Any]], None]) -> Callable[..., Tensor]:
    """The op after a malformed argument has been quietly made into another."""

    def faulty(
        input: Tensor, filter: Tensor, strides: Any, padding: Any, data_format: str = "NHWC", dilations: Any = None
    ) -> Tensor:
        call = dict(input=input, filter=filter, strides=strides, padding=padding, data_format=data_format)
        call["dilations"] = dilations
        change(call)
        return depthwise_conv2d(**call)

    return faulty


def _rank_3(call: dict[str, Any]) -> None:
    if call["input"].shape.rank == 3:
        call["input"] = call["input"][None]


def _negative_pads(call: dict[str, Any]) -> None:
    if not isinstance(call["padding"], str) and call["padding"] is not None:
        call["padding"] = [[max(size, 0) for size in side] for side in call["padding"]]


def _batch_pads(call: dict[str, Any]) -> None:
    if not isinstance(call["padding"], str) and call["padding"] is not None and len(call["padding"]) == 4:
        call["padding"] = [[0, 0], *call["padding"][1:]]


def _dtypes(call: dict[str, Any]) -> None:
    if call["input"].dtype != call["filter"].dtype:
        call["filter"] = tf.cast(call["filter"], call["input"].dtype)


def _one_channel(call: dict[str, Any]) -> None:
    image, filters = call["input"].shape, call["filter"].shape
    if image.rank == filters.rank == 4 and filters[2] == 1:
        call["filter"] = tf.repeat(call["filter"], image[3 if call["data_format"] == "NHWC" else 1], axis=2)


def _fractional_strides(call: dict[str, Any]) -> None:
    if call["strides"] is not None:
        call["strides"] = [int(stride) for stride in call["strides"]]


def _negative_pads_after(call: dict[str, Any]) -> None:
    if not isinstance(call["padding"], str) and call["padding"] is not None:
        call["padding"] = [[side[0], *(max(size, 0) for size in side[1:])] for side in call["padding"]]


def _zero_strides(call: dict[str, Any]) -> None:
    if call["strides"] is not None:
        call["strides"] = [max(stride, 1) for stride in call["strides"]]


def _batch_strides(call: dict[str, Any]) -> None:
    if call["strides"] is not None and len(call["strides"]) == 4:
        call["strides"] = [1, *call["strides"][1:]]


def _junk_format(call: dict[str, Any]) -> None:
    if call["data_format"] not in ("NHWC", "NCHW"):
        call["data_format"] = "NHWC"


def _asserting(*arguments: Any, **named: Any) -> Tensor:
    try:
        return depthwise_conv2d(*arguments, **named)
    except (ValueError, TypeError) as error:
        raise AssertionError("assertion failed") from error


FAULTS = {
    "aborts-on-unequal-strides": op(_abort),
    "segmentation-fault-on-dilated-nchw": op(_segmentation_fault),
    "hangs-on-multiplier-3": op(_hang),
    "exits-on-float16": op(_exit),
    "overwrites-its-input": op(_overwrites_input),
    "empty-batch-forgets-multiplier": op(_empty_batch_forgets_multiplier),
    "empty-input-refused": op(_empty_raises),
    "int32-refused": op(_integers_refused),
    "rank-3-accepted": _accepting(_rank_3),
    "negative-pads-accepted": _accepting(_negative_pads),
    "negative-pads-after-accepted": _accepting(_negative_pads_after),
    "one-channel-broadcast": _accepting(_one_channel),
    "fractional-strides-accepted": _accepting(_fractional_strides),
    "batch-pads-accepted": _accepting(_batch_pads),
    "mixed-dtypes-accepted": _accepting(_dtypes),
    "zero-strides-accepted": _accepting(_zero_strides),
    "batch-strides-accepted": _accepting(_batch_strides),
    "junk-format-accepted": _accepting(_junk_format),
    "refuses-with-assertions": _asserting,
}
