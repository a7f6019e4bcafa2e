"""options: lists, key=value words, the nearest name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.options import items, nearest, pairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("[]", []),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("[ a , b ,]", ["a", "b"]),
        ("(1,2)", ["1", "2"]),
        ("['a,b.yaml',c.yaml]", ["a,b.yaml", "c.yaml"]),
        ('["a, b",c]', ["a, b", "c"]),
        ("'a,b.yaml'", ["a,b.yaml"]),
        ("['it''s',b]", ["it's", "b"]),
        ("O'Brien.yaml,b's.yaml", ["O'Brien.yaml", "b's.yaml"]),
        ("'open,b", ["'open", "b"]),
        ("runs[1].yaml,b", ["runs[1].yaml", "b"]),
    ],
)
def test_lists(text, expected):
    assert items(text) == expected


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1))
def test_what_is_quoted_comes_back(entries):
    quoted = (entry.replace("'", "''") for entry in entries)
    assert items("[{}]".format(",".join(f"'{entry}'" for entry in quoted))) == entries


@given(st.text())
def test_any_text_is_read(text):
    assert all(items(text))


def test_pairs():
    assert pairs(["m.onnx", "--n=1", "label=a=b"], ("model", "n", "label"), "bench", "model") == {
        "model": "m.onnx", "n": "1", "label": "a=b"
    }  # fmt: skip


def test_the_last_value_may_win():
    assert pairs(["n=1", "n=2"], ["n"], "bench", last_wins=True) == {"n": "2"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b"], "'b' is not key=value; see: bench help"),
        (["nn=1"], "bench has no argument 'nn'; did you mean n=?"),
        (["zzz=1"], "bench has no argument 'zzz'; it takes label, model, n"),
        (["n=1", "-n=2"], "bench: n= is given twice"),
    ],
)
def test_bad_words(words, message):
    with pytest.raises(UserError) as caught:
        pairs(words, ("model", "n", "label"), "bench", "model")
    assert message in str(caught.value)


def test_the_nearest_name():
    assert nearest("musdg", ["MuSGD", "Adam"]) == "MuSGD"
    assert nearest("zzzz", ["MuSGD", "Adam"]) is None
    assert nearest("pi5", ["jetson-nano", "raspberry-pi-4", "raspberry-pi-5"]) == "raspberry-pi-5"
    assert nearest("orin", ["jetson-nano", "jetson-orin-nano"]) == "jetson-orin-nano"
    assert nearest("x", ["jetson-nano", "x86-64"]) is None  # a letter tells too little
