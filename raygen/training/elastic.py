"""Workers whose number follows the machines that there are, by Ray Train's elastic scaling.

Ray Train alone would start any number of workers between two bounds. A batch can be split over some
of these numbers only, and the tasks that read need room beside them. And where machines come, it
would end the workers at once: here they save the run first, so that no step is done twice.
"""

import time
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2.api.config import ScalingConfig

from raygen.cluster import connection as cluster
from raygen.config.run import Reader
from raygen.training.placement import Placement

RESIZE_SECONDS = 60.0
"""Interval at which a run looks whether it may have more workers, in seconds."""
SAVE_SECONDS = 120.0
"""Time that workers get to save a run before they are ended, in seconds."""


class ElasticTrainer(TorchTrainer):
    """A TorchTrainer whose number of workers changes between the sizes of a placement."""

    def __init__(
        self, placement: Placement, reader: Reader, status: Any, *arguments: Any, **options: Any
    ) -> None:
        """Args: status: an actor of `Status`; arguments, options: as of TorchTrainer."""
        super().__init__(*arguments, **options)
        scaling_config: Any = self.scaling_config
        self._policy = SizesPolicy(scaling_config, placement, reader, status)

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        trainer: Any = super()
        return trainer._initialize_and_run_controller(**options | {"scaling_policy": self._policy})


class SizesPolicy(ElasticScalingPolicy):
    """Ray Train's elastic policy for the sizes of a placement, saving before it resizes."""

    def __init__(
        self, scaling_config: ScalingConfig, placement: Placement, reader: Reader, status: Any
    ) -> None:
        super().__init__(scaling_config)
        self._placement = placement
        self._reader = reader
        self._status = status
        self._saved = cluster.Poll()
        self._decision: ResizeDecision | None = None
        self._decided_at = 0.0

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        # Ray learns of a lost machine up to 20 s late here, and counts those that are going.
        at_most = super()._count_possible_workers(reserved_resources)
        return self._placement.fitting(cluster.lasting_nodes(), self._reader, at_most)

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        self._decision = None
        return super().make_decision_for_non_running_worker_group()

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        if self._decision is None:
            decision = super().make_decision_for_running_worker_group(
                worker_group_state, worker_group_status
            )
            if isinstance(decision, ResizeDecision):
                self._decision, self._decided_at = decision, time.monotonic()
                self._saved = cluster.Poll()
                # A machine that only read for the workers may be lost: then some must make room.
                grows = decision.num_workers > worker_group_state.num_workers
                change = "more" if grows else "fewer"
                self._status.restart.remote(f"{change} machines are there")
            return NoopDecision()
        saved = self._saved.ask(self._status.is_saved)
        if not saved and time.monotonic() < self._decided_at + SAVE_SECONDS:
            return NoopDecision()
        decided, self._decision = self._decision, None
        return decided
