"""How Ray Train's workers get their images: each its own part of the plan, read by Ray Data.

This module does not import torch, which takes seconds: the actor that hands out the shards needs
it, and the first batch waits for that actor.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from raygen.core.status import RUN, tell_outage
from raygen.data.stream.ray_data import Reading
from raygen.training.session import Session


class PlannedShards(DataConfig):
    """Hands each worker the images that the plan has for it.

    Ray Train calls it anew for each group of workers, so that the rest of a run is dealt out to as
    many workers as there are.
    """

    def __init__(self, rest: Callable[[int], Reading]) -> None:
        """Args: rest: returns what so many workers have to read from where the run stands now."""
        super().__init__()
        self._rest = rest

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
        return [{name: shard} for shard in self._rest(world_size).shards()]


def rest_of(session: Session, store_bytes: float, status: Any, workers: int) -> Reading:
    """What so many workers have to read from the run's latest checkpoint on.

    Args: store_bytes: size of the smallest object store; status: an actor of `Status`.
    """
    step = session.run.position().global_step
    told = partial(tell_outage, status, RUN)
    return Reading(
        session.stream, range(workers), workers, step, session.total_steps, store_bytes, told
    )
