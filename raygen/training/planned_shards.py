"""How Ray Train's workers get their images: each its own part of the plan, read by Ray Data.

This module does not import torch, which takes seconds: the actor that hands out the shards needs
it, and the first batch waits for that actor.
"""

from typing import Any

from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from raygen.data.stream.ray_data import Reading, ReadTasks
from raygen.training.session import Session


class PlannedShards(DataConfig):
    """Hands each worker the images that the plan has for it.

    Ray Train calls it anew for each group of workers, so that the rest of a run, from its latest
    checkpoint on, is dealt out to as many workers as there are.
    """

    def __init__(self, session: Session, tasks: ReadTasks) -> None:
        super().__init__()
        self._session = session
        self._tasks = tasks

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
        session = self._session
        step, total = session.run.position().global_step, session.total_steps
        reading = Reading(session.stream, range(world_size), world_size, step, total, self._tasks)
        return [{name: shard} for shard in reading.shards()]
