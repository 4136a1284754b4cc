"""Ray Tune's schedulers, adapted to sweeps; they decide which trials go on.

The trial of the defaults is never stopped and never cloned over, so that the gain of the search can
be measured against it.
"""

import math
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler

from raygen.config.domains import Domain, Range, Space
from raygen.evaluation.objective import Objective
from raygen.tuning.records import ENDED, REDUCTION, Report, Trial, trial_name

MOST_DRAWS = 100
"""Attempts at changing a donor's values; a range of a single number never changes."""
TIME = "images_seen"
LAST = "last"
"""Entry of a result that is true for a trial's last one, when it has seen all its images."""


def number_of(trial: Any) -> int:
    """A Ray Tune trial's number in the sweep."""
    return int(trial.custom_trial_name)


def as_result(report: Report) -> dict[str, float]:
    """Convert a report to a result for Ray Tune's schedulers."""
    return {TIME: report.images_seen, "objective": report.objective}


class Halving(ASHAScheduler):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934).

    Results of trials from earlier sessions of the sweep are taken into account.
    """

    def __init__(
        self, objective: Objective, report_images: int, total_images: int, history: Sequence[Trial]
    ) -> None:
        super().__init__(
            time_attr=TIME,
            metric="objective",
            mode=objective.mode,
            grace_period=report_images,
            # Trials that reach this time end by themselves.
            max_t=total_images + 1,
            reduction_factor=REDUCTION,
        )
        self._history = {trial.number: trial for trial in history}
        for trial in history:
            if trial.status in ENDED:
                self.on_trial_add(None, _stand_in(trial))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        before = self._history.get(number_of(trial))
        for report in before.reports if before else ():
            super().on_trial_result(tune_controller, trial, as_result(report))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)
        if number_of(trial) == 0:
            return str(TrialScheduler.CONTINUE)
        # NaN compares as neither worse nor better than other values.
        return decision if math.isfinite(result["objective"]) else str(TrialScheduler.STOP)


class Population(PopulationBasedTraining):
    """Population-based training (Jaderberg et al. 2017, arXiv 1711.09846).

    At each report, a trial in the worst quarter goes on from the networks of one in the best
    quarter, with changed values.
    """

    def __init__(self, objective: Objective, report_images: int, mutable: Space, seed: int) -> None:
        """Args: mutable: domains of the options that may change during a trial; at least one."""

        def within(config: dict[str, Any]) -> dict[str, Any]:
            values = config["trial"]["values"]
            for name, domain in mutable.items():
                if isinstance(domain, Range):
                    values[name] = domain.clip(values[name])
            return config

        super().__init__(
            time_attr=TIME,
            metric="objective",
            mode=objective.mode,
            perturbation_interval=report_images,
            hyperparam_mutations={
                "trial": {"values": {name: _mutation(d) for name, d in mutable.items()}}
            },
            custom_explore_fn=within,
            log_config=False,
        )
        # Ray draws its changes from here.
        random.seed(seed)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        # The result of a trial that ended before it was measured is empty.
        if number_of(trial) == 0 or result.get(LAST, True):
            return str(TrialScheduler.CONTINUE)
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[Any, Any]:
        """Change the donor's values, so that at least one of them differs.

        At the end of a range, half of Ray's changes lead out of it and are cut back to where they
        began; such a clone would repeat its donor.
        """
        donors = trial_to_clone.config["trial"]["values"]
        for _ in range(MOST_DRAWS):
            config, operations = super()._get_new_config(trial, trial_to_clone)
            if config["trial"]["values"] != donors:
                break
        return config, operations


def _mutation(domain: Domain) -> Any:
    if not isinstance(domain, Range):
        return list(domain.values)
    return (
        tune.loguniform(domain.low, domain.high)
        if domain.log
        else tune.uniform(domain.low, domain.high)
    )


def _stand_in(trial: Trial) -> Any:
    """A stand-in, for schedulers, of a trial that ended in an earlier session."""
    name = trial_name(trial.number)
    return SimpleNamespace(trial_id=f"ended-{name}", custom_trial_name=name)
