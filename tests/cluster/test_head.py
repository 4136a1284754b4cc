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

    # The session's own Ray may be watched, too.
    before = set(threading.enumerate())
    with head.watched(is_there, "Ray", told.append):
        assert over.wait(60)
    gone, back = told
    assert gone.startswith("warning: Ray does not answer; unless")
    assert "--resume" in gone
    assert back == "Ray answers again"
    assert not set(threading.enumerate()) - before
