"""Ultralytics is quiet for a call and as loud as before afterwards, also after an error."""

import warnings

import pytest

from yolo_musgd.host import quiet_host, silent_host


@pytest.mark.parametrize(
    ("silence", "heard"), [(quiet_host, ["warning", "error"]), (silent_host, ["error"])], ids=["quiet", "silent"]
)
def test_less_is_heard_within_and_as_much_as_before_after(silence, heard, caplog):
    from ultralytics.utils import LOGGER

    def speak():
        for level in ("info", "warning", "error"):
            getattr(LOGGER, level)(level)

    def fail():
        with silence():
            speak()
            raise ZeroDivisionError

    def levels():
        return [record.levelname.lower() for record in caplog.records]

    LOGGER.addHandler(caplog.handler)
    try:
        before = LOGGER.level
        with pytest.raises(ZeroDivisionError):
            fail()
        assert levels() == heard
        assert LOGGER.level == before
        speak()
        assert levels() == [*heard, "info", "warning", "error"]
    finally:
        LOGGER.removeHandler(caplog.handler)


def test_warnings_of_the_tracer_are_not_heard():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with silent_host():
            warnings.warn("traced", stacklevel=1)
        with pytest.raises(UserWarning, match="traced"):  # and afterwards they are heard again
            warnings.warn("traced", stacklevel=1)
