"""Few bits a weight, against a loop over them and against the table that the steps are from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_musgd.edge.errors import UserError
from yolo_musgd.federated.quantization import CODES, STEP, STEPS, dequantize, quantize


def tensors(seed=0, scale=1.0):
    random = np.random.default_rng(seed)
    return [(scale * random.standard_normal(shape)).astype(np.float32) for shape in ((5, 3, 3, 3), (7, 11), (1, 1))]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(0, 1000), st.sampled_from([1e-4, 1.0, 1e3]))
def test_a_weight_becomes_the_middle_of_its_step(bits, seed, scale):
    sent = tensors(seed, scale)
    seen = dequantize(quantize(sent, bits), sent, bits)
    for tensor, got in zip(sent, seen, strict=True):
        for row, found in zip(tensor.reshape(len(tensor), -1), got.reshape(len(tensor), -1), strict=True):
            step = np.float32(np.float16(STEP[bits] * np.sqrt(np.mean(row.astype(np.float64) ** 2))))
            levels = (np.arange(2**bits) - 2 ** (bits - 1) + 0.5) * step
            nearest = np.abs(row[:, None] - levels).min(axis=1)
            np.testing.assert_allclose(np.abs(row - found), nearest, rtol=1e-5, atol=2e-6 * step)
            assert set(found.round(9)) <= set(levels.astype(np.float32).round(9))


@pytest.mark.parametrize(("bits", "loss"), [(1, 0.3634), (2, 0.1188), (3, 0.03744), (4, 0.01154)])
def test_normal_weights_lose_what_the_table_says(bits, loss):
    sent = [np.random.default_rng(1).standard_normal((4, 50_000)).astype(np.float32)]
    (seen,) = dequantize(quantize(sent, bits), sent, bits)
    assert np.mean((sent[0] - seen) ** 2) / np.mean(sent[0] ** 2) == pytest.approx(loss, rel=0.03)


def test_bytes_are_those_of_the_bits_and_a_step_a_filter():
    packed = quantize([np.ones((10, 100), np.float32), np.ones((3, 1), np.float32)], 2)
    assert packed[CODES].nbytes == 251  # 1003 weights of two bits
    assert packed[STEPS].nbytes == 26


def test_filters_of_zeros_stay_and_nan_is_seen():
    sent = [np.array([[0, 0], [1, np.nan], [1, -1]], np.float32)]
    (seen,) = dequantize(quantize(sent, 2), sent, 2)
    assert not seen[0].any()
    assert np.isnan(seen[1]).all()
    assert np.isfinite(seen[2]).all()


@pytest.mark.parametrize("key", [CODES, STEPS])
def test_too_few_or_too_many_are_refused(key):
    sent = tensors()
    packed = quantize(sent, 3)
    for wrong in (packed[key][:-1], np.append(packed[key], packed[key][:1])):
        with pytest.raises(UserError, match="a foreign model: no 3 bits for each of"):
            dequantize({**packed, key: wrong}, sent, 3)
