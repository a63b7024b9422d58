"""Random arguments, good and bad: good ones give the oracle's values, bad ones an error, and nothing else happens.

`pytest tests/ops/test_fuzz.py` takes seconds; `pytest tests/ops/test_fuzz.py -m slow` runs 21,000 examples.
"""

import unittest
from itertools import combinations

import numpy as np
import pytest
import tensorflow as tf
from depthwise.conformance import oracle
from depthwise.conformance.case import Case
from depthwise.conformance.data import Problem
from depthwise.ops import LOWERINGS, depthwise_conv2d
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results import FIRST, compare, results

DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "complex64")
REFUSALS = (TypeError, ValueError, NotImplementedError)


FAR = (65, 2**29 - 1)
"""Strides and rates at which windows and taps stand further apart than the images of `cases` are large."""


PARTLY_UNKNOWN = [
    "unknown_" + "_".join(names) for n in (1, 2) for names in combinations(("batch", "height", "width"), n)
]


SIZES, TAPS = st.integers(0, 7), st.integers(1, 5)


@st.composite
def cases(draw, far=(), size=SIZES, taps=TAPS, dtypes=DTYPES):
    """Any supported case, small; some of its strides and rates among `far`."""
    pads = st.tuples(st.integers(0, 9), st.integers(0, 9))
    strides, rates = (st.sampled_from([*range(1, most + 1), *far]) for most in (4, 3))
    image = (draw(st.integers(0, 2)), draw(size), draw(size), draw(st.integers(0, 4)))
    window = (draw(taps), draw(taps), draw(st.integers(0, 3)))
    dtype = draw(st.sampled_from(dtypes))
    kinds = ["normal", "integer"] if "int" in dtype else ["normal", "integer", "special"]
    data = st.sampled_from(kinds) if all(image + window) else st.just("normal")
    return Case(
        input=image,
        filter=window,
        strides=(draw(strides), draw(strides)),
        dilations=(draw(rates), draw(rates)),
        padding=draw(st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(pads, pads))),
        format=draw(st.sampled_from(["NHWC", "NCHW"])),
        dtype=dtype,
        data=draw(data),
        seed=draw(st.integers(0, 99)),
    )


LARGE_FILTERS = cases(size=st.integers(1, 3), taps=st.sampled_from([1, 9, 16]), dtypes=["float32", "complex64"])

numbers = st.one_of(
    st.integers(-2, 4),
    st.sampled_from([2**30, 2**31 - 1, 2**31, 2**63, -(2**31), 10**30]),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
)
junk = st.recursive(numbers, lambda inner: st.lists(inner, max_size=5), max_leaves=10)
good_strides = st.lists(st.integers(1, 2**31 - 1), min_size=2, max_size=2)


@st.composite
def calls(draw):
    """The arguments of a call, of which any may be bad."""
    shape = st.lists(st.integers(0, 4), max_size=6)
    dtypes = st.sampled_from(["float32", "float64", "int32", "complex64", "bool", "uint32"])
    dtype = draw(dtypes)

    def array(shape, dtype):
        return np.ones(shape, dtype)

    channels = draw(st.integers(0, 3))
    data_format = draw(st.one_of(st.sampled_from([None, "NHWC", "NCHW"]), st.sampled_from([None, "NHWC"]), junk))
    h, w = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    likely = [1, channels, h, w] if data_format == "NCHW" else [1, h, w, channels]
    kernel = [draw(st.integers(0, 4)), draw(st.integers(0, 4)), channels, draw(st.integers(0, 2))]
    one_or_junk = st.one_of(st.sampled_from([1, 1, 2, 3, 2**30, 2**31 - 1]), numbers)
    spatial = [draw(one_or_junk), draw(one_or_junk)]
    big = st.one_of(st.integers(0, 3), st.sampled_from([2**15, 2**30, 2**31 - 1, 2**31]), numbers)
    pair = st.lists(big, min_size=2, max_size=2)
    explicit = [draw(pair), draw(pair)]
    nchw = data_format == "NCHW"
    return {
        "input": draw(st.one_of(st.just(array(likely, dtype)), st.builds(array, shape, dtypes), junk)),
        "filter": draw(st.one_of(st.just(array(kernel, dtype)), st.builds(array, shape, dtypes), junk)),
        "strides": draw(st.one_of(st.just([1, 1, *spatial] if nchw else [1, *spatial, 1]), junk)),
        "padding": draw(
            st.one_of(
                st.sampled_from(["SAME", "VALID"]),
                st.just([[0, 0], [0, 0], *explicit] if nchw else [[0, 0], *explicit, [0, 0]]),
                junk,
            )
        ),
        "data_format": data_format,
        "dilations": draw(st.one_of(st.none(), st.lists(one_or_junk, min_size=2, max_size=2), junk)),
        "lowering": draw(st.sampled_from(["auto", *LOWERINGS])),
    }


def padded_elements(call):
    """How much memory a call may ask for: an upper limit, of what only asks for much when its padding is large."""
    total = 1
    for axis in range(1, 4):
        total *= max(np.shape(call["input"])[axis] + sum(call["padding"][axis]), 1)
    return total


class FuzzTest(unittest.TestCase):
    def valid(self, case, lowering, mode):
        problem = Problem(case)
        try:
            found = results(problem, lowering, mode)
        except NotImplementedError:
            self.assertNotEqual(lowering, "auto")
            return
        for name, tensor in zip(FIRST, found.values(), strict=False):
            compare(self, tensor, problem.expected(name), case.dtype, f"{name} [{lowering}, {mode}, {case}]")

    def any_call(self, call, unknown):
        """Either a refusal, or a result of the oracle's shape and values."""
        if isinstance(call["padding"], list):
            try:
                if padded_elements(call) > 2**22:
                    call = call | {"padding": "VALID"}  # honest, but gigabytes
            except (TypeError, IndexError, ValueError, KeyError):
                pass

        def op(x, w):
            return depthwise_conv2d(x, w, **{k: v for k, v in call.items() if k not in ("input", "filter")})

        try:
            if unknown and isinstance(call["input"], np.ndarray) and isinstance(call["filter"], np.ndarray):
                signature = [tf.TensorSpec(None, call[k].dtype) for k in ("input", "filter")]
                y = tf.function(op, input_signature=signature, autograph=False)(call["input"], call["filter"])
            else:
                y = op(call["input"], call["filter"])
        except REFUSALS as error:
            self.assertRegex(str(error), r"^depthwise_conv2d argument `\w+` must")
            return
        except (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError):
            self.assertTrue(unknown)
            return
        x, w = (np.asarray(call[k]) for k in ("input", "filter"))
        order = slice(2, 4) if call["data_format"] == "NCHW" else slice(1, 3)
        rates = call["dilations"] or [1, 1]
        rates = [rates] * 2 if isinstance(rates, int) else rates
        padding = call["padding"] if isinstance(call["padding"], str) else call["padding"][order]
        expected = oracle.value(
            x,
            w,
            strides=call["strides"][order],
            padding=padding,
            dilations=rates[order] if len(rates) == 4 else rates,
            data_format=call["data_format"] or "NHWC",
        )
        self.assertEqual(y.shape, expected.shape, call)
        np.testing.assert_array_equal(y.numpy().astype(expected.dtype), expected, err_msg=str(call))

    short = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    long = settings(max_examples=10_000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

    @short
    @given(cases(), st.sampled_from([*LOWERINGS, "auto"]), st.sampled_from(["eager", "graph", "unknown"]))
    def test_valid(self, case, lowering, mode):
        self.valid(case, lowering, mode)

    @short
    @given(cases(FAR), st.sampled_from([*LOWERINGS, "auto"]), st.sampled_from(["eager", "graph", "unknown"]))
    def test_valid_far_apart(self, case, lowering, mode):
        self.valid(case, lowering, mode)

    @short
    @given(LARGE_FILTERS, st.sampled_from(PARTLY_UNKNOWN))
    def test_valid_partly_unknown(self, case, mode):
        """Large filters, whose formulation is chosen by sizes, by the lowering that chooses."""
        self.valid(case, "taps", mode)

    @short
    @given(calls(), st.booleans())
    def test_any_call(self, call, unknown):
        self.any_call(call, unknown)

    @pytest.mark.slow
    @long
    @given(cases(), st.sampled_from(["native", "auto"]), st.sampled_from(["eager"] * 8 + ["graph", "unknown"]))
    def test_valid_at_length(self, case, lowering, mode):
        self.valid(case, lowering, mode)

    @pytest.mark.slow
    @settings(long, max_examples=1_000)
    @given(LARGE_FILTERS, st.sampled_from(PARTLY_UNKNOWN))
    def test_valid_partly_unknown_at_length(self, case, mode):
        self.valid(case, "taps", mode)

    @pytest.mark.slow
    @long
    @given(calls(), st.booleans())
    def test_any_call_at_length(self, call, unknown):
        self.any_call(call, unknown)
