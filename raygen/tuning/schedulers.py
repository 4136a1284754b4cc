"""Which trials go on and which values come next: Ray Tune's schedulers and Optuna, for sweeps.

The trial of the defaults is never stopped and never cloned over, so that what the search gained can
be told against it. Schedulers and searchers are told what earlier sessions of a sweep saw.
"""

import random
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from raygen.errors import UserError
from raygen.model_options import CHANGEABLE
from raygen.search_space import Domain, Range, Space, Values
from raygen.tuning.objective import Objective
from raygen.tuning.records import ENDED, REDUCTION, Report, Trial, trial_name

TIME = "images_seen"
LAST = "last"
"""Whether a result is a trial's last one, because the trial has seen all its images."""


def number_of(trial: Any) -> int:
    """A Ray Tune trial's number in the sweep."""
    return int(trial.custom_trial_name)


def as_result(report: Report) -> dict[str, float]:
    """A report as Ray Tune's schedulers want it."""
    return {TIME: report.images_seen, "objective": report.objective}


class Halving(ASHAScheduler):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934)."""

    def __init__(
        self, objective: Objective, report_images: int, total_images: int, history: Sequence[Trial]
    ) -> None:
        super().__init__(
            time_attr=TIME,
            metric="objective",
            mode=objective.mode,
            grace_period=report_images,
            # Trials that reach it end by themselves.
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
        return TrialScheduler.CONTINUE if number_of(trial) == 0 else decision


class Population(PopulationBasedTraining):
    """Population-based training (Jaderberg et al. 2017, arXiv 1711.09846).

    At each report, a trial among the worst quarter goes on from the networks of one among the best
    quarter, with changed values.
    """

    def __init__(self, objective: Objective, report_images: int, space: Space, seed: int) -> None:
        """Raises: UserError if nothing that is searched can change while networks are trained."""
        mutable = {name: domain for name, domain in space.items() if name in CHANGEABLE}
        if not mutable:
            raise UserError(
                "--scheduler pbt: changes values in the middle of a run, which none of the search "
                f"space allows; add one of {', '.join(sorted(CHANGEABLE))}"
            )

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
        if number_of(trial) == 0 or result[LAST]:
            return str(TrialScheduler.CONTINUE)
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision


def _mutation(domain: Domain) -> Any:
    if not isinstance(domain, Range):
        return list(domain.values)
    return (
        tune.loguniform(domain.low, domain.high)
        if domain.log
        else tune.uniform(domain.low, domain.high)
    )


def _stand_in(trial: Trial) -> Any:
    """What a scheduler needs to know of a trial that has ended in an earlier session."""
    name = trial_name(trial.number)
    return SimpleNamespace(trial_id=f"ended-{name}", custom_trial_name=name)


class OptunaSearch(Searcher):
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) suggests the values."""

    def __init__(
        self,
        space: Space,
        defaults: Values,
        objective: Objective,
        trials: int,
        seed: int,
        history: Sequence[Trial],
    ) -> None:
        """Args: trials: how many there are in all; history: those of earlier sessions.

        Raises: UserError if Optuna is not installed.
        """
        super().__init__(metric="objective", mode=objective.mode)
        optuna = import_optuna()
        self._optuna = optuna
        self._space = space
        self._distributions = {name: self._distribution(d) for name, d in space.items()}
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=max(4, min(10, trials // 4)),
            # Trials that still run are taken for bad ones, so that not all try the same.
            constant_liar=True,
            seed=seed,
        )
        direction = "minimize" if objective.mode == "min" else "maximize"
        self._study = optuna.create_study(direction=direction, sampler=sampler)
        self._asked: dict[str, Any] = {}
        self.waiting: list[tuple[int, Values | None]] = []
        for trial in history:
            if trial.status not in ENDED:
                self.waiting.append((trial.number, trial.values))
            elif trial.reports and self._knows(trial.values):
                self._add(trial)
        new = range(max((trial.number for trial in history), default=-1) + 1, trials)
        self.waiting += [(number, None if number else defaults) for number in new]

    def _distribution(self, domain: Domain) -> Any:
        kinds = self._optuna.distributions
        if not isinstance(domain, Range):
            return kinds.CategoricalDistribution(domain.values)
        if domain.whole:
            return kinds.IntDistribution(int(domain.low), int(domain.high), log=domain.log)
        return kinds.FloatDistribution(domain.low, domain.high, log=domain.log)

    def _knows(self, values: Values) -> bool:
        """Whether values lie in the search space, as defaults may not."""
        return all(
            domain.low <= float(values[name]) <= domain.high
            if isinstance(domain, Range)
            else values[name] in domain.values
            for name, domain in self._space.items()
        )

    def _add(self, trial: Trial) -> None:
        """A trial of an earlier session."""
        states = self._optuna.trial.TrialState
        finished = trial.status == "finished"
        self._study.add_trial(
            self._optuna.trial.create_trial(
                params=trial.values,
                distributions=self._distributions,
                value=trial.objective if finished else None,
                intermediate_values={r.images_seen: r.objective for r in trial.reports},
                state=states.COMPLETE if finished else states.PRUNED,
            )
        )

    def suggest(self, trial_id: str) -> Any:
        if not self.waiting:
            return str(Searcher.FINISHED)
        number, values = self.waiting.pop(0)
        if values is None or self._knows(values):
            if values is not None:
                self._study.enqueue_trial(values)
            asked = self._study.ask(self._distributions)
            self._asked[trial_id] = asked
            values = {
                name: domain.clip(asked.params[name])
                if isinstance(domain, Range)
                else asked.params[name]
                for name, domain in self._space.items()
            }
        return {"trial": {"number": number, "values": values}}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if trial_id in self._asked:
            self._asked[trial_id].report(result["objective"], int(result[TIME]))

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        asked = self._asked.pop(trial_id, None)
        if asked is None:
            return
        states = self._optuna.trial.TrialState
        if error or not result or "objective" not in result:
            self._study.tell(asked, state=states.FAIL)
        elif result[LAST]:
            self._study.tell(asked, result["objective"])
        else:
            asked.report(result["objective"], int(result[TIME]))
            self._study.tell(asked, state=states.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a sweep goes on from its own records."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a sweep goes on from its own records."""


def import_optuna() -> Any:
    """Raises: UserError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "--search optuna: needs Optuna, which is not installed; pip install raygen[optuna], "
            "or use --search random"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
