"""Which trials go on, and which values come next."""

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler

from raygen.config.domains import Choice, Range, Space, Values
from raygen.evaluation.objective import Objective
from raygen.tuning.records import Report, Trial, TrialStatus
from raygen.tuning.schedulers import Halving, Population

LOW = Objective("quality/swd")
SPACE: Space = {"lr_g": Range(1e-5, 1e-3, log=True), "schedule": Choice(("1:1", "5:1"))}


def tune_trial(number: int) -> Any:
    return SimpleNamespace(trial_id=f"id{number}", custom_trial_name=f"{number:03d}")


def ended(number: int, *objectives: float, status: TrialStatus = "finished") -> Trial:
    reports = [Report(100 * (k + 1), value, 1, 1, {}) for k, value in enumerate(objectives)]
    values: Values = {"lr_g": 1e-5 * (number + 1), "schedule": "5:1"}
    return Trial(number, values, status, reports=reports)


def halving(history: list[Trial] | None = None, mode: Any = "min") -> Halving:
    return Halving(Objective("quality/swd", mode), 100, 900, history or [])


def decide(scheduler: Halving, number: int, images: int, objective: float) -> bool:
    """Whether a trial goes on after a report."""
    result = {"images_seen": images, "objective": objective}
    decision = scheduler.on_trial_result(None, tune_trial(number), result)
    return decision == TrialScheduler.CONTINUE


def test_halving_stops_what_is_not_among_the_best_third_at_a_rung() -> None:
    scheduler = halving()
    for number in range(8):
        scheduler.on_trial_add(None, tune_trial(number))
    for number, objective in ((1, 30.0), (2, 20.0), (3, 10.0)):
        assert decide(scheduler, number, 100, objective)
    assert not decide(scheduler, 4, 100, 25.0)
    assert decide(scheduler, 5, 100, 9.0)
    # Between the rungs, at 1/9 and 1/3 of the length, nothing is decided.
    assert decide(scheduler, 5, 200, 1e9)
    assert decide(scheduler, 5, 300, 8.0)
    assert not decide(scheduler, 3, 300, 8.5)


def test_a_high_value_is_good_where_the_user_says_so() -> None:
    scheduler = halving(mode="max")
    for number in (1, 2):
        scheduler.on_trial_add(None, tune_trial(number))
    assert decide(scheduler, 1, 100, 1.0)
    assert decide(scheduler, 2, 100, 2.0)
    scheduler.on_trial_add(None, tune_trial(3))
    assert not decide(scheduler, 3, 100, 0.5)


def test_the_defaults_are_never_stopped_but_others_are_measured_by_them() -> None:
    scheduler = halving()
    for number in range(3):
        scheduler.on_trial_add(None, tune_trial(number))
    assert decide(scheduler, 1, 100, 1.0)
    assert decide(scheduler, 0, 100, 50.0)
    assert decide(scheduler, 0, 900, 50.0)
    alone = halving()
    for number in range(2):
        alone.on_trial_add(None, tune_trial(number))
    decide(alone, 0, 100, 1.0)
    assert not decide(alone, 1, 100, 2.0)


def test_halving_knows_what_earlier_sessions_saw() -> None:
    history = [ended(1, 10.0), ended(2, 11.0, status="stopped"), ended(3, 12.0, status="running")]
    scheduler = halving(history)
    # The third goes on: what it had told counts once, although it tells it again.
    scheduler.on_trial_add(None, tune_trial(3))
    assert decide(scheduler, 3, 100, 12.0)
    scheduler.on_trial_add(None, tune_trial(4))
    assert not decide(scheduler, 4, 100, 11.5)
    scheduler.on_trial_add(None, tune_trial(5))
    assert decide(scheduler, 5, 100, 9.0)


def test_a_trial_that_ends_without_a_measurement_is_let_go() -> None:
    ended: Any = SimpleNamespace(custom_trial_name="003", trial_id="x")
    population = Population(LOW, 100, SPACE, 0)
    assert population.on_trial_result(None, ended, {"done": True}) == TrialScheduler.CONTINUE


def test_changed_values_stay_in_the_space_and_the_rest_is_the_donor_s() -> None:
    space = SPACE | {"seed": Choice((1, 2)), "label_smoothing": Range(0.0, 0.2)}
    mutable = {name: domain for name, domain in space.items() if name != "seed"}
    scheduler = Population(LOW, 100, mutable, 0)
    values = {"lr_g": 9.9e-4, "schedule": "1:1", "seed": 2, "label_smoothing": 0.19}
    donor: Any = SimpleNamespace(config={"trial": {"number": 3, "values": values}})
    seen = []
    for _ in range(50):
        config, _ = scheduler._get_new_config(donor, donor)
        new = config["trial"]["values"]
        seen.append(new)
        assert 1e-5 <= new["lr_g"] <= 1e-3
        assert 0 <= new["label_smoothing"] <= 0.2
        assert new["schedule"] in ("1:1", "5:1")
        assert new["seed"] == 2
    assert values == {"lr_g": 9.9e-4, "schedule": "1:1", "seed": 2, "label_smoothing": 0.19}
    assert len({new["lr_g"] for new in seen}) > 2


def test_a_clone_of_a_donor_at_the_end_of_its_range_differs_from_it() -> None:
    scheduler = Population(LOW, 100, {"lr_g": Range(1e-5, 1e-3, log=True)}, 0)
    for rate in (1e-5, 1e-3):
        donor: Any = SimpleNamespace(config={"trial": {"number": 3, "values": {"lr_g": rate}}})
        for _ in range(20):
            config, _ = scheduler._get_new_config(donor, donor)
            assert config["trial"]["values"]["lr_g"] != rate
