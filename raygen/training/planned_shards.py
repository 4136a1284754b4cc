"""How Ray Train's workers get their images: each its own part of the plan, read by Ray Data.

This module does not import torch, which takes seconds: the actor that hands out the shards needs
it, and the first batch waits for that actor.
"""

import uuid
from typing import Any

import ray
from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from raygen.data.stream.ray_data import Reading, ReadTasks
from raygen.training.session import Session


class PlannedShards(DataConfig):
    """Hands each worker the images that the plan has for it.

    Ray Train calls it anew for each group of workers, so that the rest of a run, from its latest
    checkpoint on, is dealt out to as many workers as there are.
    """

    def __init__(self, session: Session, tasks: ReadTasks, status: Any, workers: int) -> None:
        """Args: status: an actor of `Status`; workers: how many the first group is to have."""
        super().__init__()
        self._session = session
        self._tasks = tasks
        self._status = status
        self._name = uuid.uuid4().hex
        # The actor that hands out blocks takes seconds to start. Begin now, beside the workers.
        ready = self._reading(workers)
        self._ready = ready.first_step, workers
        self._shards = ready.shards()

    def _reading(self, workers: int) -> Reading:
        """What so many workers have to read from where the run stands now."""
        session = self._session
        step, total = session.run.position().global_step, session.total_steps
        return Reading(session.stream, range(workers), workers, step, total, self._tasks)

    def configure(
        self,
        datasets: dict[str, Dataset],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **options: Any,
    ) -> list[dict[str, DataIterator]]:
        """Args: datasets: one alone, the rows of the split. Returns: each worker's shard of it."""
        [name] = datasets
        reading, shards = self._reading(world_size), self._shards
        is_ready = self._ready == (reading.first_step, world_size)
        # An execution that one group of workers has begun cannot be begun again by another.
        if not is_ready or not ray.get(self._status.claim.remote(self._name)):
            shards = reading.shards()
        return [{name: shard} for shard in shards]
