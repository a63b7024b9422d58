"""Faults in where things are: pads, strides, dilations, channels, formats."""

from __future__ import annotations

import tensorflow as tf
from depthwise.conformance.faults.base import Call, Fault, Tensor, op, same_pads


def _same_pads_before(call: Call) -> Tensor:
    pads = same_pads(call) if call.padding == "SAME" else None
    return call.but(padding=tuple((b, a) for a, b in pads)).right() if pads else call.right()


def _same_pads_ignore_stride(call: Call) -> Tensor:
    pads = same_pads(call.but(strides=(1, 1))) if call.padding == "SAME" and call.strides == (2, 2) else None
    if not pads or None in call.image:
        return call.right()
    # The first window starts where it would without strides, as PyTorch users pad: the size is right, the phase isn't.
    wrong, right = call.but(padding=pads).right(), call.right()
    return wrong if wrong.shape == right.shape else right


def _valid_is_same_for_large_filters(call: Call) -> Tensor:
    larger = any(size is not None and size < span for size, span in zip(call.image, call.span, strict=True))
    return call.but(padding="SAME").right() if call.padding == "VALID" and larger else call.right()


def _pads_swap(first: bool) -> Fault:
    def fault(call: Call) -> Tensor:
        if not call.explicit:
            return call.right()
        height, width = call.padding
        pads = (height[::-1], width[::-1]) if first else (width, height)
        return call.but(padding=pads).right()

    return fault


def _pads_ignored_when_dilated(call: Call) -> Tensor:
    dilated = call.explicit and call.dilations != (1, 1)
    return call.but(padding="VALID").right() if dilated else call.right()


def _padding_holds_ones(call: Call) -> Tensor:
    if not call.explicit or call.input.dtype not in (tf.float32, tf.float64):
        return call.right()
    pads = [(0, 0), *call.padding, (0, 0)] if call.data_format == "NHWC" else [(0, 0), (0, 0), *call.padding]
    padded = tf.pad(call.input, pads, constant_values=1)
    return call.but(input=padded, padding="VALID").right()


def _bottom_pad_dropped(call: Call) -> Tensor:
    if not call.explicit:
        return call.right()
    (top, bottom), width = call.padding
    return call.but(padding=((top, max(bottom - 1, 0)), width)).right()


def _phase(call: Call) -> Tensor:
    if call.strides == (1, 1) or call.padding != "VALID":
        return call.right()
    axes = (1, 2) if call.data_format == "NHWC" else (2, 3)
    return call.but(input=tf.roll(call.input, (-1, -1), axes)).right()


def _filter(change: str) -> Fault:
    def fault(call: Call) -> Tensor:
        w = call.filter
        if change == "rows flipped":
            return call.but(filter=tf.reverse(w, [0])).right()
        if change == "even columns flipped":
            return call.but(filter=tf.reverse(w, [1])).right() if w.shape[1] % 2 == 0 else call.right()
        if change == "transposed":
            return call.but(filter=tf.transpose(w, (1, 0, 2, 3))).right() if w.shape[0] == w.shape[1] else call.right()
        return call.but(filter=tf.reverse(w, [3])).right()

    return fault


def _output_channels_by_multiple(call: Call) -> Tensor:
    y = call.right()
    channels, multiplier = call.filter.shape[2:]
    order = [k * multiplier + q for q in range(multiplier) for k in range(channels)]
    return tf.gather(y, order, axis=3 if call.data_format == "NHWC" else 1)


def _last_channel_lost_past_a_vector(call: Call) -> Tensor:
    channels = call.filter.shape[2]
    if channels <= 16 or channels % 16 == 0:
        return call.right()
    kept = tf.reshape(tf.cast(tf.range(channels) < channels - channels % 16, call.filter.dtype), (1, 1, -1, 1))
    return call.but(filter=call.filter * kept).right()


def _transposed_image(call: Call) -> Tensor:
    if call.data_format == "NHWC" or call.image[0] != call.image[1]:
        return call.right()
    return call.but(input=tf.transpose(call.input, (0, 1, 3, 2))).right()


def _last_row_lost(call: Call) -> Tensor:
    y = call.right()
    if call.dilations == (1, 1) or call.strides == (1, 1):
        return y
    return y[:, :-1] if call.data_format == "NHWC" else y[:, :, :-1]


def _one_column_wide(call: Call) -> Tensor:
    return call.but(dilations=(1, 1)).right() if call.image[1] == 1 else call.right()


def _one_by_one(call: Call) -> Tensor:
    pointwise = call.filter.shape[:2] == (1, 1) and call.strides != (1, 1)
    return call.but(padding="VALID").right() + call.filter.dtype.as_numpy_dtype(1) if pointwise else call.right()


FAULTS = {
    "same-pads-before": op(_same_pads_before),
    "same-pads-ignore-stride": op(_same_pads_ignore_stride),
    "valid-is-same-for-large-filters": op(_valid_is_same_for_large_filters),
    "pads-before-and-after-swapped": op(_pads_swap(True)),
    "pads-height-and-width-swapped": op(_pads_swap(False)),
    "pads-ignored-when-dilated": op(_pads_ignored_when_dilated),
    "padding-holds-ones": op(_padding_holds_ones),
    "bottom-pad-one-short": op(_bottom_pad_dropped),
    "stride-phase": op(_phase),
    "strides-swapped": op(lambda call: call.but(strides=call.strides[::-1]).right()),
    "strides-taken-equal": op(lambda call: call.but(strides=(call.strides[0],) * 2).right()),
    "dilations-dropped": op(lambda call: call.but(dilations=(1, 1)).right()),
    "dilations-swapped": op(lambda call: call.but(dilations=call.dilations[::-1]).right()),
    "dilations-taken-equal": op(lambda call: call.but(dilations=(call.dilations[1],) * 2).right()),
    "filter-rows-flipped": op(_filter("rows flipped")),
    "filter-even-columns-flipped": op(_filter("even columns flipped")),
    "filter-transposed": op(_filter("transposed")),
    "multiplier-reversed": op(_filter("multiplier")),
    "output-channels-by-multiple": op(_output_channels_by_multiple),
    "last-channel-lost-past-a-vector": op(_last_channel_lost_past_a_vector),
    "nchw-image-transposed": op(_transposed_image),
    "last-row-lost": op(_last_row_lost),
    "one-column-ignores-dilations": op(_one_column_wide),
    "strided-one-by-one": op(_one_by_one),
}
