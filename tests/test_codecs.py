"""codecs: nothing is lost after rounding, nothing is clipped, damage is noticed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ci2p_cache.codecs import ESCAPE, check_step, dequantise, pack, quantise, stored_dtype, unpack, unzigzag, zigzag
from ci2p_cache.errors import InputError, WorkError


def test_zigzag_is_a_bijection_that_puts_small_values_first() -> None:
    integers = np.arange(-128, 128, dtype=np.int16).astype(np.int8)
    codes = zigzag(integers)
    assert sorted(codes.tolist()) == list(range(256))
    assert zigzag(np.array([0, -1, 1, -2, 2, 127, -128], np.int8)).tolist() == [0, 1, 2, 3, 4, 254, 255]
    assert np.array_equal(unzigzag(codes), integers)
    assert zigzag(np.array([-(2**31) + 1, -128, 128, 300, 2**31 - 1])).tolist() == [ESCAPE] * 5


@given(
    arrays(np.float32, (5, 2, 2), elements=st.floats(-60, 60, width=32)),
    st.sampled_from([0.5, 1.0, 2.0, 0.75]),
)
def test_integers_are_the_nearest_multiples_of_the_step(latents: np.ndarray, step: float) -> None:
    integers = quantise(latents, "int", step)
    values = dequantise(integers, "int", step)
    assert np.array_equal(values, dequantise(zigzag(integers), "rans", step))
    assert np.array_equal(values, np.rint(latents / np.float32(step)) * np.float32(step))
    assert np.abs(values - latents).max() <= step / 2 * (1 + 1e-5)


@given(arrays(np.uint8, (3, 4, 4)))
def test_a_buffer_gives_back_the_integers(view: np.ndarray) -> None:
    out = np.empty_like(view)
    buffer = pack(view, "int")
    unpack(memoryview(buffer), out, "int")
    assert np.array_equal(out, view)
    assert pack(out, "int") == buffer


def test_float16_buffers_are_the_values_themselves() -> None:
    latents = np.random.default_rng(0).normal(0, 9, (3, 4, 4)).astype(np.float32)
    stored = quantise(latents, "float16", None)
    out = np.empty((3, 4, 4), stored_dtype("float16"))
    unpack(memoryview(pack(stored, "float16")), out, "float16")
    assert np.array_equal(dequantise(out, "float16", None), latents.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(("value", "step"), [(127.6, 1.0), (-200.0, 1.0), (64.0, 0.5), (-40.0, 0.0001), (3e9, 2.0)])
def test_what_a_byte_does_not_hold_is_an_escape(value: float, step: float) -> None:
    latents = np.zeros((2, 2), np.float32)
    latents[1, 0] = value
    integers = quantise(latents, "int", step)
    codes = zigzag(integers)
    assert codes.tolist() == [[0, 0], [ESCAPE, 0]]
    expected = np.rint(latents / np.float32(step)) * np.float32(step)
    assert np.array_equal(dequantise(integers, "int", step), expected)
    where = np.array([2])
    assert np.array_equal(dequantise(codes, "int", step, (where, integers.ravel()[where])), expected)
    with pytest.raises(WorkError, match=r"1 stored values are 255, .* and 0 such integers are given"):
        dequantise(codes, "int", step)


@pytest.mark.parametrize(("value", "step"), [(3e9, 1.0), (-(2.0**31), 1.0), (1.0, 1e-20), (1.0, 1e-44), (0.0, 1e-60)])
def test_what_does_not_fit_is_an_error_with_a_way_out(value: float, step: float) -> None:
    with pytest.raises(WorkError, match=r"use a larger --step .* or --store float16"):
        quantise(np.array([0, value], np.float32), "int", step)
    assert quantise(np.array([value], np.float32), "int", abs(value) / 2e9 + 1e-9).dtype == np.int32


def test_what_is_not_finite_is_an_error() -> None:
    for store, step in (("int", 1.0), ("float16", None)):
        with pytest.raises(WorkError, match="not finite"):
            quantise(np.array([np.nan], np.float32), store, step)  # type: ignore[arg-type]
    with pytest.raises(WorkError, match="does not fit in float16"):
        quantise(np.array([1e6], np.float32), "float16", None)


def test_a_damaged_buffer_is_an_error() -> None:
    out = np.empty((3, 4, 4), np.uint8)
    with pytest.raises(WorkError, match="ci2p verify"):
        unpack(memoryview(b"\0" * 40), out, "int")
    with pytest.raises(WorkError, match="ci2p verify"):
        unpack(memoryview(b"\0" * 40), out.astype(np.float16), "float16")


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf"), None])
def test_a_step_must_be_positive(step: float | None) -> None:
    for store in ("int", "rans"):
        with pytest.raises(InputError, match="--step"):
            check_step(store, step)  # type: ignore[arg-type]
    check_step("float16", step)
