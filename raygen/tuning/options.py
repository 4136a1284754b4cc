"""How to search for better values of a run's options."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from raygen.config.fields import require, require_at_least, require_choice, seconds_of
from raygen.evaluation.metrics import metric_help
from raygen.evaluation.objective import MAX_KL

TRIAL_DEFAULTS = {"keep": 1, "validation_count": 1_000, "projector_images": 0}
"""Defaults that differ for trials: a trial keeps only its newest and its best checkpoint, and is
measured nine times even if it is short."""

MOST_TRIALS = 1_000_000
"""Upper limit of the number of trials."""

AS_MANY_AS_FIT = MOST_TRIALS
"""Number of trials that stands for as many as the time allows."""

MOST_SEEDS = 100
"""Upper limit of the seeds of a confirmation."""

MOST_CONFIRMED = 1_000
"""Upper limit of the settings of a confirmation."""

Search = Literal["random", "optuna", "grid"]
Scheduler = Literal["asha", "pbt", "none"]
Mode = Literal["auto", "min", "max"]


@dataclass(frozen=True)
class SweepOptions:
    """How to search for better values of a run's options."""

    trials: str = "auto"
    """How many runs to try, the first with the preset's defaults; auto: 16, or with --search grid
    all combinations."""
    search: Search = "random"
    """How values are chosen: at random, by Optuna from what was good so far, or all combinations
    (of ranges, the ends and the middle)."""
    scheduler: Scheduler = "asha"
    """asha: stop trials early that are worse than most at the same point (successive halving); pbt:
    let bad ones go on from good ones' networks with changed values (population-based training);
    none: all run to their end."""
    workers_per_trial: int = 1
    """Training processes for each trial."""
    max_concurrent: str = "auto"
    """How many trials run at once; auto: as many as there are GPUs, or CPUs, for their workers, and
    of one worker each as many on a GPU as its memory holds, four at most."""
    time_budget: str = ""
    """End the sweep after so long, as 90s, 30m or 2h; --resume goes on with it. Default: never."""
    metric: Annotated[str, tyro.conf.arg(help=metric_help())] = ""
    mode: Mode = "auto"
    """Whether a low or a high value of the metric is good; auto: as it is usual for it."""
    max_kl: float = MAX_KL
    """With --metric validation/mse: nats per image; a higher KL divergence counts as an error. 0:
    no bound."""
    space: str = ""
    """JSON file of the options to search, in place of the preset's; none: only those of --set."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Search an option, as lr_g=loguniform(1e-5,1e-3), uniform(0,0.3), randint(16,64),
    schedule=choice(1:1,two-phase); or keep it out of the search, as beta1=fixed. May be
    repeated."""
    confirm: int = 3
    """After the search, train the best settings and the defaults again with so many seeds that no
    trial had; the result rests on these trainings alone. 0: do not."""
    confirm_best: int = 3
    """How many of the best settings to confirm so."""
    resume: bool = False
    """Go on with the sweep of this name, with the options that it has."""

    def __post_init__(self) -> None:
        require_at_least(self, 0, "max_kl")
        require_at_least(self, 0, "confirm", most=MOST_SEEDS)
        require_at_least(self, 1, "confirm_best", most=MOST_CONFIRMED)
        require_at_least(self, 1, "workers_per_trial")
        require_choice(self, "search", Search)
        require_choice(self, "scheduler", Scheduler)
        require_choice(self, "mode", Mode)
        number = re.fullmatch(r"[1-9]\d{0,6}", self.trials, re.ASCII)
        wish = f"be auto or from 1 to {MOST_TRIALS:,}"
        known = self.trials == "auto" or (number and int(self.trials) <= MOST_TRIALS)
        require(bool(known), "--trials", self.trials, wish)
        self.budget_seconds()

    @property
    def count(self) -> int | None:
        """The number of trials, if the user gave one."""
        return None if self.trials == "auto" else int(self.trials)

    def budget_seconds(self) -> float | None:
        """The time budget in seconds, if there is one. Raises: UserError."""
        if not self.time_budget:
            return None
        return seconds_of(self.time_budget, "--time-budget")
