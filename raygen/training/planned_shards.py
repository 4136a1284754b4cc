"""How Ray Train's workers get their images: each its own part of the plan, read by Ray Data."""

from collections.abc import Callable
from typing import Any

from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from raygen.data.stream.ray_data import Reading


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
