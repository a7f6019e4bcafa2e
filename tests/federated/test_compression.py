"""What compression sends, what it owes, and that nothing of it is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_musgd.edge.errors import UserError
from yolo_musgd.federated.compression import DENSE, GAPS, LAYOUT, VALUES, Compression, from_layout, layout


def difference(seed=0, scale=1.0):
    random = np.random.default_rng(seed)
    shapes = {"a.weight": (8, 4, 3, 3), "a.bn.weight": (8,), "b.weight": (40, 300), "b.bias": (40,)}
    return {name: (scale * random.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def test_without_compression_nothing_is_lost():
    sent, plain = difference(), Compression()
    assert plain.encode(sent).keys() == {LAYOUT, DENSE}
    for name, value in plain.decode(plain.encode(sent), from_layout(layout(sent))).items():
        np.testing.assert_array_equal(value, sent[name])


@pytest.mark.parametrize("text", ["", "{", "[1]", '[["a", [-1]]]', '[["a", "b"]]', "null"])
def test_a_layout_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="names and shapes cannot be read"):
        from_layout(text)


@pytest.mark.parametrize("text", ["none", "half", "topk:0.1", "topk:1", "bits:1", "bits:3"])
def test_decoded_has_the_names_and_shapes(text):
    sent = difference()
    seen = Compression.parse(text).decode(Compression.parse(text).encode(sent), sent)
    assert {k: v.shape for k, v in seen.items()} == {k: v.shape for k, v in sent.items()}
    assert list(seen) == list(sent)


def test_half_is_float16():
    sent, half = difference(), Compression.parse("half")
    for name, value in half.decode(half.encode(sent), sent).items():
        np.testing.assert_array_equal(value, sent[name].astype(np.float16).astype(np.float32))


def test_topk_sends_the_largest_weights_and_all_vectors():
    """Against sorting all of them."""
    sent, top = difference(), Compression.parse("topk:0.1")
    seen = top.decode(top.encode(sent), sent)
    flat = np.concatenate([sent["a.weight"].ravel(), sent["b.weight"].ravel()])
    limit = np.sort(np.abs(flat))[-round(0.1 * flat.size)]
    for name in ("a.weight", "b.weight"):
        expected = np.where(np.abs(sent[name]) >= limit, sent[name].astype(np.float16), 0)
        np.testing.assert_array_equal(seen[name], expected.astype(np.float32))
    np.testing.assert_array_equal(seen["b.bias"], sent["b.bias"].astype(np.float16).astype(np.float32))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=40, unique=True))
def test_places_far_apart_are_found_again(places):
    flat = np.zeros((1, 5001), np.float32)
    flat[0, places] = np.arange(1, len(places) + 1)
    top = Compression("topk", len(places) / 5001)
    np.testing.assert_array_equal(top.decode(top.encode({"w": flat}), {"w": flat})["w"], flat)


@pytest.mark.parametrize("text", ["topk:0.05", "bits:1"])
def test_what_was_not_sent_is_sent_later(text):
    """Error feedback: over rounds, the sum of what was seen approaches the sum of what was meant."""
    top, residual, meant, seen = Compression.parse(text), None, None, None
    for number in range(60):
        new = difference(number % 3)
        wanted = new if residual is None else {k: new[k] + residual[k] for k in new}
        got = top.decode(top.encode(wanted), wanted)
        residual = {k: wanted[k] - got[k] for k in wanted}
        meant = new if meant is None else {k: meant[k] + new[k] for k in new}
        seen = got if seen is None else {k: seen[k] + got[k] for k in new}
    for name in meant:
        np.testing.assert_allclose(meant[name] - seen[name], residual[name], atol=2e-3)
    without = Compression.parse(text)
    lost = sum(
        np.abs(
            60 * difference(0)["b.weight"]
            - 60 * without.decode(without.encode(difference(0)), difference(0))["b.weight"]
        ).sum()
        for _ in (0,)
    )
    assert np.abs(residual["b.weight"]).sum() < lost / 2


def test_values_beyond_float16_are_clipped_and_nan_stays_visible():
    half = Compression.parse("half")
    seen = half.decode(half.encode({"w": np.array([1e6, np.nan], np.float32)}), {"w": np.zeros(2, np.float32)})["w"]
    assert seen[0] == np.finfo(np.float16).max
    assert np.isnan(seen[1])


def test_a_tenth_of_the_weights_takes_less_than_a_tenth_of_the_bytes():
    sent = {"w": np.random.default_rng(0).standard_normal((1000, 100)).astype(np.float32)}
    packed = Compression.parse("topk:0.1").encode(sent)
    assert sum(a.nbytes for a in packed.values()) < 0.1 * sent["w"].nbytes


@pytest.mark.parametrize(
    "text", ["", "gzip", "topk", "topk:", "topk:0", "topk:1.5", "topk:nan", "half:2", "bits:0", "bits:5", "bits:02"]
)
def test_a_word_that_is_none_is_answered_in_one_line(text):
    with pytest.raises(UserError, match="must be none, half, bits:N with N from 1 to 4, or topk:SHARE"):
        Compression.parse(text)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.pop(GAPS),
        lambda p: p.update({DENSE: p[DENSE][:-1]}),
        lambda p: p.update({DENSE: p[DENSE].astype(np.float32)}),
        lambda p: p.update({GAPS: np.full_like(p[GAPS], 255)}),
        lambda p: p.update({VALUES: p[VALUES][:-1]}),
        lambda p: p.update({"w": p[VALUES]}),
        lambda p: p.pop(LAYOUT),
        lambda p: p.update({LAYOUT: p[LAYOUT] + np.uint32(1)}),
    ],
)
def test_arrays_of_another_model_are_refused(spoil):
    top, sent = Compression.parse("topk:0.1"), difference()
    packed = top.encode(sent)
    spoil(packed)
    with pytest.raises(UserError, match="a foreign model"):
        top.decode(packed, sent)


@pytest.mark.parametrize("kind", ["none", "half", "topk:0.5", "bits:2"])
@pytest.mark.parametrize(
    "other",
    [
        lambda arrays: {**arrays, "a": arrays["a"].reshape(3, 4)},
        lambda arrays: {"b": arrays["b"], "a": arrays["a"]},
        lambda arrays: {"c": arrays["a"], "b": arrays["b"]},
        lambda arrays: {**arrays, "a": arrays["a"].astype(np.float64)},
    ],
    ids=["shape", "order", "name", "type"],
)
def test_another_layout_of_as_many_values_is_refused(kind, other):
    """Two matrices of equal shape would be exchanged without a word."""
    arrays = {name: np.ones((4, 3), np.float32) for name in "ab"}
    compression = Compression.parse(kind)
    with pytest.raises(UserError, match=r"a foreign model: (as many values|the arrays are not packed|no 2 bits)"):
        compression.decode(compression.encode(other(arrays)), arrays)
