"""Which networks step in which iteration, under every kind of schedule."""

import pytest

from raygen.config.schedule import Schedule
from raygen.core.errors import UserError


def written(text: str, total: int, iterations: range) -> str:
    """Who steps in these iterations, a letter for each: D, G, B for both."""
    schedule = Schedule.parse(text)
    turns = [schedule.turn(iteration, total) for iteration in iterations]
    letters = {(True, False): "D", (False, True): "G", (True, True): "B"}
    return "".join(letters[turn.discriminator, turn.generator] for turn in turns)


@pytest.mark.parametrize(
    ("text", "total", "first", "last"),
    [
        ("1:1", 4000, "BBBBBBBBBBBBBBBB", "BBBBBBBBBBBBBBBB"),
        ("1:1", 101, "BBBBBBBBBBBBBBBB", "BBBBBBBBBBBBBBBB"),
        ("5:1", 4000, "DDDDBDDDDBDDDDBD", "BDDDDBDDDDBDDDDB"),
        ("5:1", 101, "DDDDBDDDDBDDDDBD", "DDDDBDDDDBDDDDBD"),
        ("1:2", 4000, "GBGBGBGBGBGBGBGB", "GBGBGBGBGBGBGBGB"),
        ("1:2", 101, "GBGBGBGBGBGBGBGB", "BGBGBGBGBGBGBGBG"),
        ("2:3", 4000, "GBBGBBGBBGBBGBBG", "GBBGBBGBBGBBGBBG"),
        ("2:3", 101, "GBBGBBGBBGBBGBBG", "BBGBBGBBGBBGBBGB"),
        ("two-phase", 4000, "DDDBDDDBDDDBDDDB", "GGGBGGGBGGGBGGGB"),
        ("two-phase", 101, "DDDBDDDBDDDBDDDB", "GBGGGBGGGBGGGBGG"),
    ],
)
def test_the_first_and_last_iterations_of_a_run(
    text: str, total: int, first: str, last: str
) -> None:
    assert written(text, total, range(16)) == first
    assert written(text, total, range(total - 16, total)) == last


@pytest.mark.parametrize(
    ("text", "of_three", "of_one"),
    [
        ("1:1", "BBB", "B"),
        ("5:1", "DDD", "D"),
        ("1:2", "GBG", "G"),
        ("2:3", "GBB", "G"),
        ("two-phase", "DDG", "D"),
    ],
)
def test_runs_of_a_few_iterations(text: str, of_three: str, of_one: str) -> None:
    assert written(text, 3, range(3)) == of_three
    assert written(text, 1, range(1)) == of_one


@pytest.mark.parametrize(
    ("total", "whole"),
    [
        (2, "DG"),
        (10, "DDDBDGGGBG"),
        (11, "DDDBDDGGGBG"),
        (16, "DDDBDDDBGGGBGGGB"),
    ],
)
def test_the_second_phase_begins_half_way_through_the_run(total: int, whole: str) -> None:
    assert written("two-phase", total, range(total)) == whole


@pytest.mark.parametrize(("total", "boundary"), [(4000, 2000), (101, 51), (3, 2), (2, 1)])
def test_the_phase_of_an_iteration(total: int, boundary: int) -> None:
    schedule = Schedule.parse("two-phase")
    phases = [schedule.phase(iteration, total) for iteration in range(total)]
    assert phases == [0] * boundary + [1] * (total - boundary)


@pytest.mark.parametrize("text", ["1:1", "5:1", "1:2", "2:3", "7:3", "3:100", "100:99"])
def test_any_window_holds_as_many_steps_as_the_ratio_says(text: str) -> None:
    discriminator, generator = (int(number) for number in text.split(":"))
    longest = max(discriminator, generator)
    turns = [Schedule.parse(text).turn(iteration, 1_000) for iteration in range(1_000)]
    for begin in range(0, 1_000 - longest, 7):
        window = turns[begin : begin + longest]
        assert sum(turn.discriminator for turn in window) == discriminator
        assert sum(turn.generator for turn in window) == generator
    # Evenly: a window of any other length is less than a step away from its share.
    for length in (2, 5, 13):
        for begin in range(0, 1_000 - length, 11):
            window = turns[begin : begin + length]
            for steps, count in (
                (sum(turn.discriminator for turn in window), discriminator),
                (sum(turn.generator for turn in window), generator),
            ):
                assert abs(steps - length * count / longest) < 1


def test_someone_steps_in_every_iteration() -> None:
    for text in ("1:1", "5:1", "1:2", "2:3", "two-phase"):
        for total in (1, 2, 3, 101):
            assert len(written(text, total, range(total))) == total


@pytest.mark.parametrize("text", ["1:1", "5:1", "1:2", "2:3", "7:3", "100:99", "two-phase"])
@pytest.mark.parametrize("total", [1, 2, 3, 101, 400])
def test_steps_are_counted_as_they_are_taken(text: str, total: int) -> None:
    schedule = Schedule.parse(text)
    discriminator = generator = 0
    for iteration in range(total):
        assert schedule.steps(iteration, total) == (discriminator, generator)
        turn = schedule.turn(iteration, total)
        discriminator += turn.discriminator
        generator += turn.generator
    assert schedule.steps(total, total) == (discriminator, generator)


def test_steps_of_the_reference_systems() -> None:
    # 2,000 iterations each of 4:1 and 1:4.
    assert Schedule.parse("two-phase").steps(4_000, 4_000) == (2_500, 2_500)
    assert Schedule.parse("two-phase").steps(2_000, 4_000) == (2_000, 500)
    assert Schedule.parse("1:1").steps(3_120, 3_120) == (3_120, 3_120)


@pytest.mark.parametrize("text", ["100:1", "1:100", "100:100"])
def test_ratios_up_to_a_hundred_are_taken(text: str) -> None:
    assert len(Schedule.parse(text).phases) == 1


@pytest.mark.parametrize(
    "text",
    ["0:1", "1:0", "1", "a:b", "1:1:1", "-1:2", "101:1", "1:101", "", "1:", "two phase", "1.5:1"],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--schedule .*must be two-phase, or"):
        Schedule.parse(text)
