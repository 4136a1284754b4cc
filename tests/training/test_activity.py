"""Workers that hang are found by the signs of life that they do not give."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from raygen.training import activity
from raygen.training.activity import READING, STARTING, TRAINING, VALIDATING, Beat, stalled

LIMIT = 60.0


def beat(doing: str = TRAINING, seconds: float = 1.0) -> Beat:
    return Beat("10.0.0.1 (process 7)", doing, 12, seconds, ())


def test_a_worker_that_gives_no_sign_of_life_holds_up_the_others() -> None:
    # The others wait for it, and so do nothing either.
    beats = {0: (beat(seconds=70.0), 2.0), 1: (beat(), 61.0), 2: (beat(READING, 70.0), 1.0)}
    assert stalled(beats, LIMIT) == [1]
    assert stalled(beats, 100.0) == []


def test_a_worker_that_reads_or_measures_for_ever_holds_up_those_that_train() -> None:
    waiting = (beat(seconds=90.0), 2.0)
    assert stalled({0: waiting, 1: (beat(READING, 90.0), 2.0)}, LIMIT) == [1]
    assert stalled({0: (beat(VALIDATING, 90.0), 2.0), 1: waiting}, LIMIT) == [0]
    # Which of them hangs in a step that all have begun cannot be known.
    assert stalled({0: waiting, 1: waiting}, LIMIT) == [0, 1]


def test_workers_of_which_one_has_done_something_are_left_alone() -> None:
    assert stalled({0: (beat(seconds=90.0), 2.0), 1: (beat(READING, 50.0), 2.0)}, LIMIT) == []
    assert stalled({}, LIMIT) == []
    # A start takes long, but not for ever; and a process that is stopped does not start.
    starting = beat(STARTING, 200.0)
    assert stalled({0: (starting, 2.0), 1: (starting, 2.0)}, LIMIT) == []
    assert stalled({0: (starting, 61.0), 1: (starting, 2.0)}, LIMIT) == [0]
    assert stalled({0: (beat(STARTING, 299.0), 2.0)}, LIMIT) == [0]


@contextmanager
def held() -> Iterator[None]:
    """A thread that has begun to read and waits."""
    begun, over = threading.Event(), threading.Event()

    def read_for_ever() -> None:
        activity.begin(READING, 41)
        begun.set()
        over.wait()

    thread = threading.Thread(target=read_for_ever)
    thread.start()
    begun.wait()
    yield
    over.set()
    thread.join()


def test_a_beat_says_what_a_worker_is_doing_and_where() -> None:
    with held():
        sent = activity.beat("10.0.0.1 (process 7)")
    assert (sent.doing, sent.step) == (READING, 41)
    assert sent.stack[0].startswith("threading.py:")
    assert any("test_activity.py" in place and "read_for_ever" in place for place in sent.stack)
    assert "waiting for images, step 41 (threading.py:" in sent.describe()
    assert beat().describe() == "training, step 12"


def test_beats_are_sent_until_the_work_is_done() -> None:
    sent: list[Beat | None] = []
    several = threading.Event()

    def send(beat: Beat | None) -> None:
        sent.append(beat)
        if len(sent) >= 3:
            several.set()

    with activity.beating("here", send, 0.01):
        assert several.wait(60)
    count = len(sent)
    assert {b.place for b in sent[:-1] if b} == {"here"}
    assert None not in sent[:-1]
    assert sent[-1] is None
    with activity.beating("here", send, float("inf")):
        pass
    assert len(sent) == count
