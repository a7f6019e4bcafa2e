import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_musgd.optim.settings import MuSGDSettings
from yolo_musgd.settings import SettingsError, nearest
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
