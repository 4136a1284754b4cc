"""A planned search for Ray Tune: which trials it suggests, and when."""

import copy
import itertools
import pickle
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune

from raygen.config.domains import Values
from raygen.tuning.planned_search import PlannedSearch
from raygen.tuning.records import Trial, trial_name


def planned_search(
    count: int, history: Sequence[Trial] = (), at_once: int | None = None
) -> PlannedSearch:
    def plan() -> Iterator[Values]:
        for number in range(count):
            yield {"lr_g": float(number)}

    search = PlannedSearch(plan(), count, history, at_once)
    tune.register_trainable("nothing", lambda config: None)
    spec = {
        "run": "nothing",
        "trial_name_creator": lambda trial: trial_name(trial.config["trial"]["number"]),
    }
    search.add_configurations([SimpleNamespace(spec=spec)])
    return search


def suggested(search: PlannedSearch, most: int = 100) -> list[Any]:
    return list(itertools.islice(iter(search.next_trial, None), most))


def test_trials_come_in_the_order_of_the_plan() -> None:
    search = planned_search(3)
    assert (search.left, search.total_samples, search.is_finished()) == (3, 3, False)
    trials = suggested(search)
    assert [trial.config for trial in trials] == [
        {"trial": {"number": number, "values": {"lr_g": float(number)}}} for number in range(3)
    ]
    assert [str(trial) for trial in trials] == ["000", "001", "002"]
    assert len({trial.trial_id for trial in trials}) == 3
    assert (search.left, search.total_samples, search.is_finished()) == (0, 3, True)


def test_no_more_trials_begin_than_may_run_at_once() -> None:
    search = planned_search(5, at_once=2)
    first, second = suggested(search)
    assert search.next_trial() is None
    search.on_trial_complete(second.trial_id)
    search.on_trial_complete(second.trial_id)
    assert [str(trial) for trial in suggested(search)] == ["002"]
    assert not search.is_finished()
    search.on_trial_complete(first.trial_id, error=True)
    assert [str(trial) for trial in suggested(search)] == ["003"]


def test_of_many_trials_only_those_that_are_asked_for_are_made() -> None:
    def endless() -> Iterator[Values]:
        for number in itertools.count():
            assert number < 4
            yield {"lr_g": float(number)}

    search = PlannedSearch(endless(), 1_000_000, [], 4)
    search.add_configurations([SimpleNamespace(spec={"run": "nothing"})])
    assert len(suggested(search)) == 4
    assert search.left == 999_996
    # The sweep is to end: no other trial begins.
    search.set_finished()
    assert search.is_finished()
    assert search.next_trial() is None


def test_trials_that_have_ended_are_not_repeated_and_others_go_on_with_their_values() -> None:
    changed: Values = {"lr_g": 0.5}
    history = [Trial(0, {"lr_g": 0.0}, "finished"), Trial(2, changed, "interrupted")]
    # One that a longer sweep had.
    history.append(Trial(7, {"lr_g": 7.0}, "finished"))
    search = planned_search(4, history)
    assert search.left == 3
    told = [trial.config["trial"] for trial in suggested(search)]
    assert [trial["number"] for trial in told] == [1, 2, 3]
    assert told[1]["values"] == changed
    assert planned_search(1, history).is_finished()


def test_ray_may_pickle_a_search() -> None:
    assert pickle.dumps(planned_search(3))
    # Experiments are copied with the trials that are in them.
    assert copy.deepcopy(suggested(planned_search(1))[0].config)["trial"]["number"] == 0
