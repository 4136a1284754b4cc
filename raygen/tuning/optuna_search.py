"""Optuna as a searcher for Ray Tune, which learns from earlier sessions of a sweep too."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

from raygen.config.domains import MOST_ATTEMPTS, Domain, Range, Space, Values, nothing_fits
from raygen.core.errors import UserError
from raygen.evaluation.objective import Objective
from raygen.tuning.records import ENDED, Trial
from raygen.tuning.schedulers import LAST, TIME


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
        allowed: Callable[[Values], bool] = lambda _: True,
    ) -> None:
        """
        Args:
            trials: number of trials in all.
            history: trials of earlier sessions.
            allowed: tells whether values may be combined; forbidden ones are replaced.
        Raises: UserError if Optuna is not installed.
        """
        super().__init__(metric="objective", mode=objective.mode)
        optuna = import_optuna()
        self._optuna = optuna
        self._space = space
        self._allowed = allowed
        self._distributions = {name: self._distribution(d) for name, d in space.items()}
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=max(4, min(10, trials // 4)),
            # Trials that still run are taken for bad ones, so that not all try the same.
            constant_liar=True,
            # NumPy's older generators take no more.
            seed=seed % 2**32,
        )
        direction = "minimize" if objective.mode == "min" else "maximize"
        self._study = optuna.create_study(direction=direction, sampler=sampler)
        self._asked: dict[str, Any] = {}
        for trial in history:
            if trial.status in ENDED and trial.reports and self._knows(trial.values):
                self._add(trial)
        begun = {trial.number for trial in history}
        going_on = [(t.number, t.values) for t in history if t.status not in ENDED]
        self.left = len(going_on) + trials - sum(number < trials for number in begun)
        """Number of trials that have not been suggested yet."""
        new = (number for number in range(trials) if number not in begun)
        self._waiting: Iterator[tuple[int, Values | None]] = itertools.chain(
            going_on, ((number, None if number else defaults) for number in new)
        )

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune pickles searches to resume a sweep, but raygen resumes from its own records.
        return {}

    def _distribution(self, domain: Domain) -> Any:
        distributions = self._optuna.distributions
        if not isinstance(domain, Range):
            return distributions.CategoricalDistribution(domain.values)
        if domain.whole:
            return distributions.IntDistribution(int(domain.low), int(domain.high), log=domain.log)
        return distributions.FloatDistribution(domain.low, domain.high, log=domain.log)

    def _knows(self, values: Values) -> bool:
        """Whether values lie in the search space; defaults may not."""
        return all(
            domain.low <= float(values[name]) <= domain.high
            if isinstance(domain, Range)
            else values[name] in domain.values
            for name, domain in self._space.items()
        )

    def _add(self, trial: Trial) -> None:
        """Tell Optuna about a trial of an earlier session."""
        states = self._optuna.trial.TrialState
        # Optuna does not accept objectives that are not finite.
        reports = [report for report in trial.reports if math.isfinite(report.objective)]
        known = trial.objective is not None and math.isfinite(trial.objective)
        finished = trial.status == "finished" and known
        self._study.add_trial(
            self._optuna.trial.create_trial(
                params=trial.values,
                distributions=self._distributions,
                value=trial.objective if finished else None,
                intermediate_values={r.images_seen: r.objective for r in reports},
                state=states.COMPLETE if finished else states.PRUNED if known else states.FAIL,
            )
        )

    def suggest(self, trial_id: str) -> Any:
        if not self.left:
            return str(Searcher.FINISHED)
        self.left -= 1
        number, values = next(self._waiting)
        if values is None or self._knows(values):
            if values is not None:
                self._study.enqueue_trial(values)
            self._asked[trial_id], values = self._ask()
        return {"trial": {"number": number, "values": values}}

    def set_finished(self) -> None:
        """Suggest no more trials."""
        self.left = 0

    def _ask(self) -> tuple[Any, Values]:
        """Get Optuna's next suggestion. Raises: UserError if no suggestion is allowed."""
        for _ in range(MOST_ATTEMPTS):
            asked = self._study.ask(self._distributions)
            values: Values = {
                name: domain.clip(asked.params[name])
                if isinstance(domain, Range)
                else asked.params[name]
                for name, domain in self._space.items()
            }
            if self._allowed(values):
                return asked, values
            self._study.tell(asked, state=self._optuna.trial.TrialState.FAIL)
        raise nothing_fits(self._space)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        # A trial that ended before it was measured has no result.
        if trial_id in self._asked and "objective" in result:
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
        """Does nothing, because a sweep goes on from its own records."""

    def restore(self, checkpoint_path: str) -> None:
        """Is never called, because a sweep goes on from its own records."""


def import_optuna() -> Any:
    """Import Optuna. Raises: UserError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "--search optuna: needs Optuna, which is not installed; run it with `uv run --extra "
            "optuna`, or use --search random"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
