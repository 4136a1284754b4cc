"""How fast trainings are is measured before a suite is planned."""

import pytest
from helpers import tiny_config

from raygen.core.progress import Silence
from raygen.tuning.speed import training_speeds


@pytest.mark.slow
def test_speeds_are_those_of_trainings_that_run_at_once(ray_session: str) -> None:
    small, large = tiny_config(), tiny_config(width=1.0, batch_size=64, schedule="two-phase")
    speeds, at_once = training_speeds([small, large], 1, Silence())
    assert at_once == 1
    # Sixty-four times the operations for each image take longer on any machine.
    assert speeds[0] > speeds[1] > 0
    assert training_speeds([small], 2, Silence())[1] == 2
