"""How fast trainings are is measured before a suite is planned."""

from itertools import accumulate
from types import SimpleNamespace

import pytest
from helpers import tiny_config

from raygen.core.progress import Silence
from raygen.tuning import speed
from raygen.tuning.speed import training_speeds


def test_a_step_that_waited_for_other_processes_counts_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The last step took a hundred times as long as the others: four times as long is believed.
    steps = (0.5, 0.5, 0.5, 0.5, 50.0)
    clock = accumulate((0.0, *(pause for step in steps for pause in (step, 1.0))))
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    run = tiny_config(schedule="two-phase")
    assert speed._timed(run) == pytest.approx(run.step_images / ((4 * 0.5 + 2.0) / 5))


@pytest.mark.slow
def test_speeds_are_those_of_trainings_that_run_at_once(ray_session: str) -> None:
    speeds, at_once = training_speeds([tiny_config(), tiny_config(width=0.2)], 1, Silence())
    assert at_once == 1
    assert min(speeds) > 0
    assert training_speeds([tiny_config()], 2, Silence())[1] == 2
