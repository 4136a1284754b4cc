"""Checks that losses and weights stay finite, without waiting for the device at every step."""

from collections.abc import Mapping

import torch
from torch import nn

from raygen.models.base import Metrics
from raygen.training.workers import Workers

_NEVER = 2**62


class NotFinite(Exception):
    """A loss or a weight has become infinite or NaN."""

    def __init__(self, what: str, network: str, step: int) -> None:
        super().__init__(what, network, step)
        self.what, self.network, self.step = what, network, step

    def __str__(self) -> str:
        return f"{self.what} of the {self.network} was not finite at step {self.step:,}"


class LossWatch:
    """Records, on the device, the first step at which each loss was not finite."""

    def __init__(self, losses: Mapping[str, str], device: torch.device) -> None:
        """Args: losses: metrics to watch, and the networks that each trains."""
        self._losses = losses
        self._first_bad = torch.full((len(losses),), _NEVER, dtype=torch.int64, device=device)

    def add(self, metrics: Metrics, step: int) -> None:
        """Record a step's metrics; losses may be missing if their networks did not step."""
        fine = torch.ones((), device=self._first_bad.device)
        values = torch.stack([metrics.get(name, fine).float() for name in self._losses])
        now = self._first_bad.clamp(max=step)
        self._first_bad = torch.where(torch.isfinite(values), self._first_bad, now)

    def check(self, workers: Workers) -> None:
        """Wait for the device, and combine the records of all workers.

        Raises: NotFinite on all workers if any worker's loss was not finite.
        """
        steps = workers.all_reduce_min(self._first_bad)
        if steps and min(steps) < _NEVER:
            first = min(range(len(steps)), key=lambda number: steps[number])
            what = list(self._losses)[first]
            raise NotFinite(what, self._losses[what], steps[first])


def check_weights(networks: Mapping[str, nn.Module], step: int) -> None:
    """Raises: NotFinite if a network's weights or statistics are not all finite."""
    for name, network in networks.items():
        tensors = [t for t in network.state_dict().values() if t.is_floating_point()]
        if not torch.stack(torch._foreach_norm(tensors)).isfinite().all():
            raise NotFinite("a weight", name, step)
