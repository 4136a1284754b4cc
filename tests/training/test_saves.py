"""When a run saves, and that its training does not wait for that."""

import threading
import time

import pytest

from raygen.config.run import PRESETS
from raygen.core.errors import UserError
from raygen.training import saves
from raygen.training.saves import Saves

SECONDS = 60
"""Only for the case that something hangs."""


def test_a_checkpoint_is_put_off_while_another_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saves, "SOON_SECONDS", 0.0)
    release, saved = threading.Event(), threading.Event()

    def write() -> None:
        release.wait(SECONDS)
        saved.set()

    with Saves(0.0) as saving:
        assert not saving.put_off()
        assert not saving.is_due()
        saving.begin(write)
        assert saving.put_off()
        # It is owed, but the one before is not written yet.
        assert not saving.is_due()
        assert not saved.is_set()
        release.set()
        saving.wait()
        assert saved.is_set()
        assert saving.is_due()
        saving.begin(lambda: None)
        saving.wait()
        assert not saving.is_due()


def test_one_that_has_just_begun_is_waited_for() -> None:
    with Saves(0.0) as saving:
        saving.begin(lambda: time.sleep(0.05))
        assert not saving.put_off()
        assert saving.seconds >= 0.05


def test_a_checkpoint_is_due_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Saves(600.0) as saving, Saves(0.0) as never:
        for _ in range(2):
            now[0] += 599
            assert not saving.is_due()
            now[0] += 1
            assert saving.is_due()
            assert not never.is_due()
            saving.begin(lambda: None)
            saving.wait()
            assert not saving.is_due()


def test_an_error_of_a_checkpoint_is_raised_with_the_next_one() -> None:
    def fail() -> None:
        raise OSError("disk full")

    saving = Saves(0.0)
    saving.begin(fail)
    assert not saving.put_off()
    with pytest.raises(OSError, match="disk full"):
        saving.wait()


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("90s", 90), ("0", 0)])
def test_the_time_is_an_option(text: str, seconds: float) -> None:
    config = PRESETS["dcgan-celeba"].updated({"checkpoint_every": text}, "test")
    assert config.checkpoint_seconds == seconds
    with pytest.raises(UserError, match="--checkpoint-every soon: must be a time, as 90s"):
        PRESETS["dcgan-celeba"].updated({"checkpoint_every": "soon"}, "test")
