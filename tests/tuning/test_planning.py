"""What a sweep searches, decided before anything starts."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from raygen.config.domains import SURE_TRIALS, Values
from raygen.config.job import JobOptions
from raygen.config.run import PRESETS, RunConfig
from raygen.core import marker
from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.tuning.options import SweepOptions
from raygen.tuning.planning import Plan, check_folder, make_plan
from raygen.tuning.records import SweepFolder


def planned(
    preset: str, *settings: str, options: dict[str, Any] | None = None, **sweep: Any
) -> Plan:
    run: RunConfig = PRESETS[preset].updated({"width": 0.03} | (options or {}), "test")
    sweep = {"space": "none", "search": "grid"} | sweep
    return make_plan(run, SweepOptions(set=settings, **sweep))


def test_an_option_that_is_not_searched_keeps_what_depends_on_those_that_are() -> None:
    plan = planned("vaegan-anime", "objective=choice(larsen,article)")
    [larsen] = [v for v in plan.trials() if v["objective"] == "larsen"]
    [article] = [v for v in plan.trials() if v["objective"] == "article"]
    rates = [plan.config.updated(v, "test").model.explicit for v in (larsen, article)]
    assert [(model.lr_g, model.lr_vae) for model in rates] == [(1e-3, 1e-3), (1e-4, 3e-4)]  # type: ignore[attr-defined]


def test_a_sweep_over_the_adversarial_loss_tries_each_with_its_own_defaults() -> None:
    plan = planned("dcgan-celeba", "adversarial_loss=choice(non-saturating,wasserstein-gp)")
    models = [plan.config.updated(values, "test").model.explicit for values in plan.trials()]
    found = [
        (m.adversarial_loss, m.schedule, m.beta1, m.beta2, m.lr_g, m.lr_d)  # type: ignore[attr-defined]
        for m in models
    ]
    assert found == [
        ("non-saturating", "1:1", 0.5, 0.999, 1e-4, 1e-3),
        ("wasserstein-gp", "5:1", 0.0, 0.9, 1e-4, 1e-4),
    ]
    # What is searched or told is the same for both.
    plan = planned(
        "dcgan-celeba",
        "adversarial_loss=choice(non-saturating,wasserstein-gp)",
        "beta2=choice(0.9,0.99)",
        options={"lr_d": 3e-4},
    )
    assert plan.defaults == {"adversarial_loss": "non-saturating", "beta2": 0.999}
    models = [plan.config.updated(values, "test").model.explicit for values in plan.trials()]
    assert {m.lr_d for m in models} == {3e-4}  # type: ignore[attr-defined]
    assert {m.beta2 for m in models} == {0.9, 0.99, 0.999}  # type: ignore[attr-defined]


def test_wasserstein_gp_is_searched_around_its_own_defaults() -> None:
    critic = {"adversarial_loss": "wasserstein-gp"}
    plan = planned("dcgan-celeba", options=critic, space="", search="random", trials="4")
    assert {n: plan.defaults[n] for n in ("schedule", "beta1", "lr_d")} == {
        "schedule": "5:1",
        "beta1": 0.0,
        "lr_d": 1e-4,
    }
    assert str(plan.space["lr_d"]) == "loguniform(1e-05,0.001)"
    with pytest.raises(UserError, match="unknown option 'own_lr_d'"):
        planned("dcgan-celeba", "own_lr_d=choice(1,2)")


def test_a_learning_rate_of_its_own_is_searched_around_the_number_it_stands_for() -> None:
    plan = planned("vaegan-anime", space="", search="random", trials="4")
    assert plan.defaults["lr_g"] == 1e-3
    assert next(plan.trials()) == plan.defaults
    assert str(plan.space["lr_g"]) == "loguniform(0.0001,0.01)"
    assert "lr_vae" not in plan.space


def test_values_that_do_not_go_together_are_not_tried() -> None:
    # Half a batch of an odd number of images is none.
    halves = {"half_batches": True, "batch_size": 16}
    plan = planned("dcgan-celeba", "batch_size=randint(8,32)", options=halves, search="random")
    assert len(list(plan.trials())) == plan.count == 16
    assert all(int(values["batch_size"]) % 2 == 0 for values in plan.trials())
    # Nor is one that cannot be split over a trial's workers.
    plan = planned("dcgan-celeba", "batch_size=randint(8,64)", search="random", workers_per_trial=4)
    assert all(int(values["batch_size"]) % 4 == 0 for values in plan.trials())
    with pytest.raises(UserError, match="--batch-size 10: cannot be split evenly over 4 workers"):
        planned("dcgan-celeba", "batch_size=choice(8,10)", workers_per_trial=4)
    with pytest.raises(UserError, match="--batch-size 50: cannot be split evenly over 4 workers"):
        planned("dcgan-celeba", options={"batch_size": 50}, space="", workers_per_trial=4)


def test_the_values_of_many_trials_are_made_when_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[Values] = []
    check = Plan.check

    def counted(plan: Plan, values: Values) -> None:
        checked.append(values)
        check(plan, values)

    monkeypatch.setattr(Plan, "check", counted)
    for search in ("random", "optuna"):
        plan = planned("dcgan-celeba", space="", search=search, trials="1000000")
        assert plan.count == 1_000_000
        assert len(checked) <= SURE_TRIALS
        checked.clear()
    # They do not depend on how many there are.
    few = planned("dcgan-celeba", space="", search="random", trials="120")
    many = planned("dcgan-celeba", space="", search="random", trials="100000")
    assert list(islice(many.trials(), 120)) == list(few.trials())


def test_large_grids_are_counted_and_not_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = f"seed=choice({','.join(map(str, range(500)))})"
    batches = f"batch_size=choice({','.join(map(str, range(8, 208, 2)))})"
    plan = planned("dcgan-celeba", seeds, batches)
    # The defaults, seed 0 and batches of 128, are among them.
    assert plan.count == 500 * 100
    assert list(islice(plan.trials(), 3)) == [
        {"seed": 0, "batch_size": 128},
        {"seed": 0, "batch_size": 8},
        {"seed": 0, "batch_size": 10},
    ]
    # What cannot be trained is found without a look at each combination.
    with pytest.raises(UserError, match="cannot be split evenly over 4 workers"):
        planned("dcgan-celeba", seeds, batches, workers_per_trial=4)
    with pytest.raises(UserError, match="--trials 9: --search grid has 50000 combinations"):
        planned("dcgan-celeba", seeds, batches, trials="9")
    rates = f"lr_g=choice({','.join(f'{rate / 1e5}' for rate in range(1, 22))})"
    with pytest.raises(UserError, match="--search grid: has 1,050,001 combinations, .* 1,000,000"):
        planned("dcgan-celeba", seeds, batches, rates.replace("0.0001,", "0.5,"))


def test_cloning_trials_of_several_workers_is_refused() -> None:
    with pytest.raises(UserError, match="--workers-per-trial 2: --scheduler pbt pauses"):
        planned("dcgan-celeba", space="", search="random", scheduler="pbt", workers_per_trial=2)


def test_cloning_without_anything_that_may_change_is_refused_before_a_sweep_is_deleted() -> None:
    with pytest.raises(UserError, match="--scheduler pbt: changes values in the middle of a run"):
        planned("dcgan-celeba", "batch_size=choice(8,16)", search="random", scheduler="pbt")


def test_a_sweep_that_is_being_deleted_is_not_resumed(tmp_path: Path) -> None:
    sweep = SweepFolder(Folder.at(tmp_path / "sweep"))
    plan = planned("dcgan-celeba", "lr_g=choice(1e-4,1e-3)")
    marker.write(sweep.folder, "sweep", deleting=True)
    sweep.folder.write_json("sweep.json", {"space": {}})
    job, options = JobOptions(run_name="sweep"), SweepOptions()
    with pytest.raises(UserError, match="--resume: the sweep in .* was being deleted"):
        check_folder(sweep, job, replace(options, resume=True), plan)
    # Without it, the deletion is finished.
    check_folder(sweep, job, options, plan)
