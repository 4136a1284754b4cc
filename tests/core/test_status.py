"""The actor between the parts of a job and whoever watches them, without Ray."""

from raygen.core.errors import RunError, UserError
from raygen.core.status import Group, Notice, Started, Status


def test_each_part_s_progress_is_known_and_all_are_told_to_stop() -> None:
    status = Status()
    assert not status.progress(0, "a")
    assert not status.progress(3, "b")
    status.stop()
    assert status.progress(0, "c")
    assert status.stopping()
    assert status.state().progress == {0: "c", 3: "b"}


def test_events_are_told_once_to_who_says_how_many_it_knows() -> None:
    status = Status()
    for text in "abc":
        status.tell(Notice(text))
    known = len(status.state().events)
    assert known == 3
    status.tell(Notice("d"))
    assert status.state(known).events == (Notice("d"),)
    # One that was asked for before the others were known repeats them.
    late = status.state(1)
    assert [event.text for event in late.events if isinstance(event, Notice)] == ["b", "c", "d"]
    assert late.after(3) == (Notice("d"),)
    assert late.after(4) == ()


def test_workers_that_begin_again_are_another_group_and_wait_for_nothing() -> None:
    status = Status()
    status.started(0, 0, True)
    status.progress(0, "far")
    status.outage(0, "s3 is away")
    # A group that goes back to a checkpoint by itself is the same.
    status.started(0, 4, False)
    status.progress(0, "far")
    status.outage(0, "s3 is away")
    status.started(0, 8, True)
    state = status.state()
    assert state.events == (Started(0, 1), Started(4, 1), Started(8, 2))
    assert (state.progress, state.outage) == ({}, "")


def test_signs_of_life_count_until_a_worker_ends_or_waits_for_a_storage() -> None:
    status = Status()
    status.beat(0, "a")
    status.beat(1, "b")
    status.beat(1, "c")
    assert {rank: beat for rank, (beat, _) in status.beats().items()} == {0: "a", 1: "c"}
    assert all(age >= 0 for _, age in status.beats().values())
    status.outage(0, "s3 is away")
    assert status.beats() == {}
    status.outage(0, "")
    status.beat(1, None)
    assert status.beats().keys() == {0}
    # Another group of workers begins without any.
    status.begin_group(Group(2, {"2 CPUs": 1}))
    assert status.beats() == {}


def test_the_first_error_counts_and_ends_the_job() -> None:
    status = Status()
    status.fail(RunError("first"))
    status.fail(UserError("second"))
    assert str(status.state().error) == str(status.error()) == "first"
    assert status.stopping()


def test_an_outage_lasts_until_no_part_waits_any_more() -> None:
    status = Status()
    status.outage(1, "s3 has not answered for 0:10")
    status.outage(2, "")
    assert status.state().outage == "s3 has not answered for 0:10"
    status.outage(1, "")
    assert status.state().outage == ""
