"""A planned search for Ray Tune: each trial's values are taken from the plan when it can begin."""

from collections.abc import Iterator, Sequence
from typing import Any

from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.experiment.trial import Trial as TuneTrial
from ray.tune.search.search_algorithm import SearchAlgorithm

from raygen.config.domains import Values
from raygen.tuning.records import ENDED, Trial


class PlannedSearch(SearchAlgorithm):
    """Suggests the planned trials that have not ended, in the order of their numbers.

    Ray Tune's own grid holds all values from the start, and copies all of them for each trial. Its
    `Searcher`, which is asked for one trial after the other, is not allowed with population-based
    training.
    """

    def __init__(
        self, plan: Iterator[Values], count: int, history: Sequence[Trial], at_once: int | None
    ) -> None:
        """
        Args:
            plan: the values of each trial, by number.
            count: number of trials in all.
            history: trials of earlier sessions; those that have not ended go on.
            at_once: how many trials may run at once; None: as many as Ray has resources for.
        """
        ended = {t.number for t in history if t.status in ENDED}
        self.left = count - sum(number < count for number in ended)
        """Number of trials that have not been suggested yet."""
        self._count = self.left
        self._at_once = at_once
        self._waiting = _waiting(plan, ended, {t.number: t.values for t in history})
        self._running: set[str] = set()
        self._spec: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune pickles searches to resume a sweep, but raygen resumes from its own records.
        return {}

    @property
    def total_samples(self) -> int:
        return self._count

    def add_configurations(self, experiments: Any) -> None:
        [experiment] = experiments
        self._spec, self._parser = experiment.spec, _make_parser()

    def next_trial(self) -> TuneTrial | None:
        """The next trial; None if there is none, or none that may begin now."""
        if not self.left or (self._at_once and len(self._running) >= self._at_once):
            return None
        self.left -= 1
        number, values = next(self._waiting)
        spec = self._spec | {"config": {"trial": {"number": number, "values": values}}}
        trial: TuneTrial = _create_trial_from_spec(
            spec, self._parser, trial_id=TuneTrial.generate_id(), experiment_tag=str(number)
        )
        self._running.add(trial.trial_id)
        return trial

    def is_finished(self) -> bool:
        return not self.left

    def set_finished(self) -> None:
        """Suggest no more trials."""
        self.left = 0

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._running.discard(trial_id)


def _waiting(
    plan: Iterator[Values], ended: set[int], begun: dict[int, Values]
) -> Iterator[tuple[int, Values]]:
    """The numbers and values of the trials to run. Args: begun: values of those that go on."""
    for number, values in enumerate(plan):
        if number not in ended:
            yield number, begun.get(number, values)
