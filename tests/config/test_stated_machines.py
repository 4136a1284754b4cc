"""Machines that a user says a cluster may come to have."""

import pytest

from raygen.config.job import JobOptions
from raygen.config.machines import MOST_MACHINES, machines_of
from raygen.core.errors import UserError


def test_machines_of_several_kinds() -> None:
    assert machines_of("") == []
    assert machines_of("2x8CPU+1GPU") == [{"CPU": 8, "GPU": 1}] * 2
    assert machines_of("1x16CPU,2x8CPU+4GPU") == [{"CPU": 16}] + [{"CPU": 8, "GPU": 4}] * 2
    assert len(machines_of(f"{MOST_MACHINES}x1CPU")) == MOST_MACHINES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8xGPU", "must be machines, as 4x8CPU"),
        ("8CPU", "must be machines"),
        ("4x8CPU+", "must be machines"),
        ("4x8CPU,", "must be machines"),
        ("4x8CPU+1GPU 2x16CPU", "must be machines"),
        ("4x8.5CPU", "must be machines"),
        ("-1x8CPU", "must be machines"),
        ("0x8CPU", "must have machines of at least 1 CPU"),
        ("4x0CPU+1GPU", "must have machines of at least 1 CPU"),
        ("9999x1CPU,2x1CPU", "must be 10,000 at most"),
    ],
)
def test_other_words_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        JobOptions(cluster_may_grow_to=text)
    assert str(refused.value).startswith(f"--cluster-may-grow-to {text}: {message}")
    assert "\n" not in str(refused.value)
