"""What a run has taken is added up over its groups of workers."""

import time

import pytest

from raygen.core.status import Group, Started
from raygen.training.usage import Meter, Usage


def test_time_restarts_and_repeated_images_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(Usage(100.0, {"8 CPUs": 50.0}, 1, 8), step_images=16)
    assert meter.usage == Usage(100.0, {"8 CPUs": 50.0}, 1, 8)
    meter.group(Group(8, {"4 x A10G": 2}, at=1000.0))
    meter.started(Started(0, 1, 8), 0)
    # A machine is lost a minute later; the run was at image 800, and is saved up to step 40.
    meter.group(Group(0, {}, at=1060.0))
    meter.group(Group(4, {"4 x A10G": 1}, at=1090.0))
    meter.started(Started(40, 2, 4), 800)
    monkeypatch.setattr(time, "time", lambda: 1100.0)
    assert meter.usage == Usage(100 + 480 + 40, {"8 CPUs": 50.0, "4 x A10G": 130.0}, 2, 8 + 160)
    assert meter.workers == 4
    # Going back to a checkpoint by themselves, the workers are the same.
    meter.started(Started(40, 2, 4), 0)
    meter.group(Group(0, {}, at=1100.0))
    monkeypatch.setattr(time, "time", lambda: 5000.0)
    assert meter.usage == Usage(620.0, {"8 CPUs": 50.0, "4 x A10G": 130.0}, 2, 168)


def test_usage_is_described_with_its_price() -> None:
    usage = Usage(7200.0, {"4 x A10G": 1800.0, "8 CPUs": 60.0}, 1, 1600)
    assert usage.describe(0.5) == (
        "2:00:00 of worker time; machines: 30:00 of 4 x A10G, 1:00 of 8 CPUs; 1 restart, "
        "1,600 images repeated; 1.00 at 0.5 per worker and hour"
    )
    assert Usage(61.0, {"1 CPU": 61.0}).describe() == "1:01 of worker time; machines: 1:01 of 1 CPU"
