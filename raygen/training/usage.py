"""What a run has taken: machines' time, restarts, and images that had to be repeated."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from raygen.core.progress import duration
from raygen.core.status import Group, Started

HOUR = 3600.0


@dataclass(frozen=True)
class Usage:
    """What a run has taken, over all its sessions. Does not count time without workers.

    Attributes:
        worker_seconds: time of each worker, summed.
        node_seconds: time of each node with workers, summed, by the kind of node.
        restarts: how often the workers began again, after failures or with another number.
        images_lost: images of training steps that were repeated after that.
    """

    worker_seconds: float = 0.0
    node_seconds: Mapping[str, float] = field(default_factory=dict)
    restarts: int = 0
    images_lost: int = 0

    def describe(self, price: float = 0.0) -> str:
        """Format as `6:00:00 of worker time; machines: 1:30:00 of 4 x A10G; 2 restarts, ...`.

        Args: price: of a worker in an hour; 0.0: unknown.
        """
        nodes = ", ".join(f"{duration(s)} of {kind}" for kind, s in self.node_seconds.items())
        text = f"{duration(self.worker_seconds)} of worker time"
        text += f"; machines: {nodes}" if nodes else ""
        if self.restarts:
            count = f"{self.restarts} restart{'s'[self.restarts == 1 :]}"
            text += f"; {count}, {self.images_lost:,} images repeated"
        if price:
            text += f"; {self.worker_seconds / HOUR * price:,.2f} at {price:g} per worker and hour"
        return text


class Meter:
    """Adds to a run's usage what its groups of workers take.

    Attributes: workers: size of the latest group; 0 if there was none.
    """

    def __init__(self, before: Usage, step_images: int) -> None:
        """Args: before: the usage of earlier sessions; step_images: images of a step."""
        self.workers = 0
        self._usage = before
        self._step_images = step_images
        self._group = Group(0, {})
        self._groups = 0

    def group(self, group: Group) -> None:
        """A group of workers has started, or ended."""
        self._usage = self._until(group.at)
        self._group = group

    def started(self, started: Started, images_seen: int) -> None:
        """Workers have started. Args: images_seen: before that, in this session; 0: none."""
        if 1 < started.group > self._groups:
            lost = max(0, images_seen - started.step * self._step_images)
            usage = self._usage
            self._usage = replace(
                usage, restarts=usage.restarts + 1, images_lost=usage.images_lost + lost
            )
        self._groups, self.workers = started.group, started.workers

    @property
    def usage(self) -> Usage:
        """The usage up to now."""
        return self._until(time.time())

    def _until(self, at: float) -> Usage:
        usage, group = self._usage, self._group
        if not group.workers:
            return usage
        seconds = max(0.0, at - group.at)
        nodes = dict(usage.node_seconds)
        for kind, count in group.nodes.items():
            nodes[kind] = round(nodes.get(kind, 0.0) + count * seconds, 1)
        worker_seconds = round(usage.worker_seconds + group.workers * seconds, 1)
        return replace(usage, worker_seconds=worker_seconds, node_seconds=nodes)
