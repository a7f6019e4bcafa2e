"""Settings from words and files: types, ranges, the nearest name."""

import dataclasses
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_musgd.edge.errors import UserError
from yolo_musgd.edge.options import nearest
from yolo_musgd.lab.settings import DemoSettings
from yolo_musgd.optim.settings import MuSGDSettings
from yolo_musgd.pipeline.settings import PipelineSettings
from yolo_musgd.prune.settings import PruneSettings
from yolo_musgd.resources import load_yaml, read_recipe
from yolo_musgd.settings import SettingsError
from yolo_musgd.train.settings import TelemetrySettings, plugin_keys


def test_an_unknown_key_suggests_the_right_one():
    with pytest.raises(SettingsError, match=r"unknown setting 'adapt_facter'; did you mean adapt_factor\?"):
        MuSGDSettings.from_mapping({"adapt_facter": 0.1})


def test_foreign_keys_are_left_alone_on_request():
    settings = MuSGDSettings.from_mapping({"adapt_factor": 0.1, "epochs": 3}, ignore_unknown=True)
    assert settings.adapt_factor == 0.1


@given(st.floats(0, 1e6), st.floats(0, 0.99), st.sampled_from(["tensor", "GLOBAL"]), st.booleans())
def test_round_trip(adapt_factor, beta_min, scope, nesterov):
    settings = MuSGDSettings(adapt_factor=adapt_factor, beta_min=beta_min, norm_scope=scope, nesterov=nesterov)
    assert MuSGDSettings.from_mapping(settings.to_dict()) == settings
    assert settings.norm_scope == scope.lower()


def test_integers_become_floats_and_bools_do_not():
    assert MuSGDSettings(adapt_factor=1).adapt_factor == 1.0
    with pytest.raises(SettingsError, match="adapt_factor must be >= 0, got True"):
        MuSGDSettings(adapt_factor=True)


def test_telemetry_may_be_left_to_the_program():
    assert TelemetrySettings().telemetry is None
    with pytest.raises(SettingsError, match="telemetry must be True or False, got 'yes'"):
        TelemetrySettings(telemetry="yes")


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MuSGDSettings().adapt_factor = 1


@pytest.mark.parametrize(("typed", "known"), [("musg", "MuSGD"), ("adamw", "AdamW"), ("zzzzzz", None)])
def test_nearest(typed, known):
    assert nearest(typed, ["MuSGD", "AdamW", "SGD"]) == known


def test_no_default_is_an_empty_string():
    """Ultralytics' tuner passes every argument on as key=value, and its command line refuses an empty value."""
    assert [name for name, (_, default) in plugin_keys().items() if default == ""] == []


def test_plugin_keys_have_a_type_for_each_default():
    for name, (kind, default) in plugin_keys().items():
        assert default is None or type(default) is kind, name


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
BOMB += "".join(f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("on: 1", "the key True is not a word; YAML reads on, off"),
        ("a: {b: [{no: 2}]}", "the key False is not a word"),
        ("1: 2", "the key 1 is not a word"),
        ("a: &a [*a]", "contains itself"),
        ("&a {a: *a}", "contains itself"),
        ("a: " + "[" * 5000, "nested too deep"),
        ("a: " + "{b: " * 5000, "nested too deep"),
        ("- " * 5000, "nested too deep"),
        (BOMB, "contains itself"),
        ("a: " + "x" * 300_000, "not a file of settings"),
        ("a: " + "9" * 5000, "is not YAML"),
        ("a: 2001-99-99", "is not YAML"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("? [a, b]\n: 1", "is not YAML|is not a word"),
        ("a: \x00", "is not YAML"),
    ],
)
def test_yaml_that_is_no_settings_is_one_line_at_once(tmp_path, text, message):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    began = time.perf_counter()
    with pytest.raises(UserError, match=message) as caught:
        read_recipe(file)
    assert time.perf_counter() - began < 2
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000


def test_a_recipe_with_a_byte_that_is_not_utf8_is_one_line(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_bytes(b"a: \xff")
    with pytest.raises(UserError, match="is not YAML"):
        read_recipe(file)


def test_anchors_are_fine_where_they_stay_small(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}\n")
    assert read_recipe(file) == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}


@given(st.text())
def test_any_text_is_values_or_one_line(text):
    told = "x: values"
    try:
        load_yaml(text, "x")
    except UserError as error:
        told = str(error)
    assert len(told.splitlines()) == 1
    assert "x" in told


@pytest.mark.parametrize("cls", [PruneSettings, PipelineSettings, DemoSettings])
def test_a_seed_is_one_that_numpy_takes(cls):
    assert cls(seed=2**32 - 1).seed == 2**32 - 1
    with pytest.raises(SettingsError, match="seed must be in"):
        cls(seed=2**32)
