"""Collective operations of one run's training workers, with or without a process group."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Workers:
    """This process's place among the workers. One alone needs no process group."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def all_reduce_mean(self, values: list[torch.Tensor]) -> list[float]:
        """Mean over all workers of each scalar."""
        stacked = torch.stack([value.float().to(self.device) for value in values])
        self._average(stacked)
        return [float(value) for value in stacked.tolist()]

    def all_reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all workers of each number, on the CPU. The values given may be overwritten."""
        if self.world_size == 1:
            return values.cpu()
        total = values.to(self.device)
        dist.all_reduce(total)
        return total.cpu()

    def broadcast(self, values: list[int]) -> list[int]:
        """The first worker's values, on all workers."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.int64, device=self.device)
        dist.broadcast(tensor, src=0)
        return [int(value) for value in tensor.tolist()]

    def all_reduce_min(self, values: torch.Tensor) -> list[int]:
        """Minimum over all workers of each integer."""
        smallest = values.clone()
        if self.world_size > 1:
            dist.all_reduce(smallest, dist.ReduceOp.MIN)
        return [int(value) for value in smallest.tolist()]

    def average_buffers(self, networks: Iterable[nn.Module]) -> None:
        """Replace running statistics on all workers by their mean."""
        buffers = [b for n in networks for b in n.buffers() if b.is_floating_point()]
        if self.world_size == 1 or not buffers:
            return
        flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
        self._average(flat)
        for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))

    def _average(self, tensor: torch.Tensor) -> None:
        if self.world_size > 1:
            dist.all_reduce(tensor)
            tensor.div_(self.world_size)
