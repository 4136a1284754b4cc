"""A thread that writes: in order, bounded, and heard where it fails."""

import threading
import time
from collections.abc import Callable

import pytest

from raygen.training import writer
from raygen.training.writer import Writer


def test_tasks_are_done_in_order_and_all_of_them() -> None:
    done: list[int] = []
    with Writer() as thread:
        for number in range(50):
            thread.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == list(range(50))


def test_nobody_waits_for_a_task_until_too_many_wait() -> None:
    release, done = threading.Event(), []
    with Writer() as thread:
        thread.submit(release.wait)
        for number in range(writer.WAITING - 1):
            thread.submit(lambda number=number: done.append(number))  # type: ignore[misc]
        assert done == []
        late = threading.Thread(target=lambda: thread.submit(lambda: done.append(99)))
        late.start()
        time.sleep(0.05)
        assert late.is_alive()
        release.set()
        late.join()
    assert done == [*range(writer.WAITING - 1), 99]


def fail() -> None:
    raise OSError("the disk is full")


def write(*tasks: Callable[[], object], error: Exception | None = None) -> None:
    """Give all tasks to a thread, then fail oneself."""
    with Writer() as thread:
        for task in tasks:
            thread.submit(task)
        if error:
            raise error


def test_a_failure_is_raised_and_ends_the_others() -> None:
    done: list[str] = []
    with pytest.raises(OSError, match="the disk is full"):
        write(fail, lambda: done.append("after"))
    assert done == []


def give_more(thread: Writer) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        thread.submit(lambda: None)


def test_a_failure_is_raised_where_the_next_task_is_given() -> None:
    with Writer() as thread:
        thread.submit(fail)
        with pytest.raises(OSError, match="the disk is full"):
            give_more(thread)


def test_what_goes_wrong_in_the_training_is_told_first() -> None:
    done: list[str] = []
    with pytest.raises(ValueError, match="training"):
        write(lambda: done.append("saved"), fail, error=ValueError("training"))
    # What was given is done all the same.
    assert done == ["saved"]
