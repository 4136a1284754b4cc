"""How often a run goes on after failures; the rest of it is tested by running jobs/train.py."""

import threading
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.training import ray_driver
from raygen.training.placement import Placement


def attempt(
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    fails: bool = True,
    may_fail: int = 3,
    stopped: bool = False,
) -> bool:
    """One call of Ray Train's, which gets some steps further. Returns: whether to try again."""
    reached = [100]

    def fit() -> None:
        reached[0] += steps
        if fails:
            raise RuntimeError("the worker group failed")

    def position() -> Position:
        return Position(reached[0], reached[0] * 8)

    session: Any = SimpleNamespace(
        config=SimpleNamespace(max_failures=may_fail, stall_seconds=0.0),
        uses_ray_data=False,
        run=SimpleNamespace(folder=Folder.at("runs/x"), position=position),
    )
    monkeypatch.setattr(ray_driver, "TorchTrainer", mock.Mock(return_value=mock.Mock(fit=fit)))
    stop = threading.Event()
    if stopped:
        stop.set()
    return ray_driver._fit_once(session, Placement(2, False, 1.0), mock.Mock(), 0, stop)


def test_a_run_that_gets_further_may_fail_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attempt(monkeypatch, steps=10)
    assert not attempt(monkeypatch, steps=10, fails=False)


@pytest.mark.parametrize(
    "case", [{"steps": 0}, {"steps": 10, "may_fail": 0}, {"steps": 10, "stopped": True}]
)
def test_a_run_that_gets_nowhere_or_must_end_fails(
    monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]
) -> None:
    with pytest.raises(RuntimeError, match="the worker group failed"):
        attempt(monkeypatch, **case)
