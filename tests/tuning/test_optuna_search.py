"""Optuna as a searcher: what it suggests, and what it knows of a sweep that goes on."""

import sys
from collections.abc import Iterator
from unittest import mock

import pytest

from raygen.config.domains import Choice, Range, Space, Values
from raygen.core.errors import UserError
from raygen.evaluation.objective import Objective
from raygen.tuning.optuna_search import OptunaSearch
from raygen.tuning.records import Report, Trial, TrialStatus

LOW = Objective("quality/swd")
SPACE: Space = {"lr_g": Range(1e-5, 1e-3, log=True), "schedule": Choice(("1:1", "5:1"))}
DEFAULTS: Values = {"lr_g": 1e-4, "schedule": "1:1"}


def ended(number: int, *objectives: float, status: TrialStatus = "finished") -> Trial:
    reports = [Report(100 * (k + 1), value, 1, 1, {}) for k, value in enumerate(objectives)]
    values: Values = {"lr_g": 1e-5 * (number + 1), "schedule": "5:1"}
    return Trial(number, values, status, reports=reports)


def optuna_search(trials: int, history: list[Trial] | None = None) -> OptunaSearch:
    return OptunaSearch(SPACE, DEFAULTS, LOW, trials, 0, history or [])


def suggested(search: OptunaSearch) -> Iterator[tuple[str, int, Values]]:
    """All trials that come: id, number, values."""
    for count in range(1000):
        suggestion = search.suggest(f"t{count}")
        if suggestion == "FINISHED":
            return
        yield f"t{count}", suggestion["trial"]["number"], suggestion["trial"]["values"]


def test_optuna_begins_with_the_defaults_and_finds_what_is_good() -> None:
    trials = []
    search = optuna_search(40)
    for name, number, values in suggested(search):
        assert isinstance(values["lr_g"], float)
        # Best at 5e-4, by far.
        result = {"objective": 1e3 * abs(values["lr_g"] - 5e-4), "images_seen": 100, "last": True}
        search.on_trial_result(name, result)
        search.on_trial_complete(name, result)
        trials.append((number, values))
    assert [number for number, _ in trials] == list(range(40))
    assert trials[0][1] == DEFAULTS
    late = [float(values["lr_g"]) for _, values in trials[25:]]
    # At random, a fifth of them would be so close.
    assert sum(3e-4 < rate < 8e-4 for rate in late) > len(late) / 2


def test_trials_that_an_earlier_session_did_not_begin_are_not_lost() -> None:
    search = optuna_search(4, [ended(1, 3.0), ended(3, status="interrupted")])
    trials = list(suggested(search))
    assert sorted(number for _, number, _ in trials) == [0, 2, 3]
    assert next(values for _, number, values in trials if number == 0) == DEFAULTS


def test_values_that_do_not_go_together_are_not_suggested() -> None:
    def allowed(values: Values) -> bool:
        return float(values["lr_g"]) > 1e-4 or values["schedule"] == "1:1"

    search = OptunaSearch(SPACE, DEFAULTS, LOW, 30, 0, [], allowed)
    trials = list(suggested(search))
    assert len(trials) == 30
    assert all(allowed(values) for _, _, values in trials)
    assert {values["schedule"] for _, _, values in trials} == {"1:1", "5:1"}
    with pytest.raises(UserError, match="none can be trained"):
        list(suggested(OptunaSearch(SPACE, DEFAULTS, LOW, 2, 0, [], lambda _: False)))


def test_optuna_takes_defaults_from_outside_the_space() -> None:
    outside: Values = {"lr_g": 0.5, "schedule": "two-phase"}
    search = OptunaSearch(SPACE, outside, LOW, 3, 0, [])
    trials = list(suggested(search))
    assert trials[0][1:] == (0, outside)
    search.on_trial_complete(trials[0][0], {"objective": 1.0, "images_seen": 100, "last": True})
    assert all(1e-5 <= float(values["lr_g"]) <= 1e-3 for _, _, values in trials[1:])


def test_optuna_goes_on_with_what_had_begun_and_knows_what_had_ended() -> None:
    history = [ended(0, 5.0), ended(1, 9.0, status="stopped"), ended(2, status="failed")]
    history += [ended(3, 7.0, status="interrupted")]
    search = optuna_search(6, history)
    assert search.left == 3
    trials = list(suggested(search))
    assert [number for _, number, _ in trials] == [3, 4, 5]
    assert trials[0][1:] == (3, history[3].values)
    known = [(t.state.name, t.value) for t in search._study.trials[:2]]
    assert known == [("COMPLETE", 5.0), ("PRUNED", None)]
    search.on_trial_complete(trials[1][0], error=True)
    search.on_trial_complete(trials[2][0], {"objective": 3.0, "images_seen": 100, "last": False})
    states = [trial.state.name for trial in search._study.trials[2:]]
    assert states == ["RUNNING", "FAIL", "PRUNED"]


def test_a_search_that_is_to_end_suggests_nothing() -> None:
    search = optuna_search(100_000)
    assert search.suggest("a") != "FINISHED"
    assert search.left == 99_999
    search.set_finished()
    assert search.suggest("b") == "FINISHED"


def test_without_optuna_the_remedy_is_named() -> None:
    with (
        mock.patch.dict(sys.modules, {"optuna": None}),
        pytest.raises(UserError, match="uv run --extra optuna"),
    ):
        optuna_search(3)
