"""What makes one trial better than another."""

import math

import pytest

from raygen.config.run import PRESETS
from raygen.core.errors import RunError, UserError
from raygen.evaluation.objective import Objective, choose_objective, own_objective
from raygen.tuning.options import SweepOptions


def test_a_metric_that_is_never_logged_is_refused() -> None:
    config = PRESETS["dcgan-celeba"]
    with pytest.raises(UserError, match="--metric loss/generatr: dcgan-celeba never logs it") as e:
        choose_objective(config, "loss/generatr", "min", 0)
    assert "loss/generator" in str(e.value)
    with pytest.raises(UserError, match="validation/mse"):
        choose_objective(config, "validation/mse", "min", 0)
    assert choose_objective(config, "", "auto", 0) == Objective("quality/fd", max_kl=0)
    assert choose_objective(config, "", "auto", 0).using("domain").metric == "quality/fd_domain"
    assert choose_objective(config, "quality/swd", "auto", 0).using("domain") == Objective(
        "quality/swd"
    )
    accuracy = choose_objective(config, "accuracy/discriminator", "auto", 0)
    assert accuracy == Objective("accuracy/discriminator", "max")
    assert choose_objective(config, "accuracy/discriminator", "min", 0).mode == "min"
    assert choose_objective(PRESETS["vae-celeba"], "", "min", 9) == Objective(
        "validation/mse", "min", 9
    )


def test_the_objective_is_the_metric_with_the_kl_bounded() -> None:
    metrics = {"quality/swd": 3.0, "validation/mse": 0.1, "validation/kl": 300.0}
    assert Objective("quality/swd", max_kl=100).value(metrics) == 3
    assert Objective("validation/mse", max_kl=300).value(metrics) == 0.1
    assert Objective("validation/mse", max_kl=0).value(metrics) == 0.1
    assert Objective("validation/mse", max_kl=200).value(metrics) == pytest.approx(0.6)
    with pytest.raises(RunError, match="accuracy: was not logged"):
        Objective("accuracy").value(metrics)


def test_lower_or_higher_is_better_and_anything_than_nothing() -> None:
    low, high = Objective("a"), Objective("a", "max")
    assert low.is_better(1, 2)
    assert not low.is_better(2, 2)
    assert high.is_better(2, 1)
    assert low.is_better(5, math.nan)
    assert high.is_better(5, math.nan)
    assert not low.is_better(math.nan, 5)


def test_a_divergence_that_is_not_finite_is_not_within_its_bound() -> None:
    objective = Objective("validation/mse", max_kl=100.0)
    assert objective.value({"validation/mse": 0.5, "validation/kl": 50.0}) == 0.5
    assert math.isnan(objective.value({"validation/mse": 0.5, "validation/kl": math.nan}))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_best_checkpoint_and_the_best_trial_are_told_by_one_objective(preset: str) -> None:
    run = PRESETS[preset]
    assert own_objective(run) == choose_objective(run, "", "auto", SweepOptions().max_kl)
