"""What a job tells of a head that does not answer."""

import threading

import pytest

from raygen.cluster import head


def test_a_silent_head_is_told_of_once_and_its_return_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "LOOK_SECONDS", 0.001)
    answers = iter([True, False, False, True, *[False] * 9, True, True])
    told: list[str] = []
    over = threading.Event()

    def is_there() -> bool:
        answer = next(answers, None)
        if answer is None:
            over.set()
        return answer is not False

    with head.watched(is_there, "10.0.0.1:6379", told.append):
        assert over.wait(60)
    gone, back = told
    assert "10.0.0.1:6379, does not answer" in gone
    assert "--resume" in gone
    assert back == "the cluster's head, 10.0.0.1:6379, answers again"
    assert "head" not in [thread.name for thread in threading.enumerate()]
