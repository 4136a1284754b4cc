"""Where a job writes and how it goes about it: options that all jobs which train have."""

from dataclasses import dataclass

from raygen.config.fields import Patience, require_at_least
from raygen.config.machines import machines_of


@dataclass(frozen=True)
class JobOptions(Patience):
    """Where a job writes and how it goes about it; the same for every job."""

    storage: str = "runs"
    """Folder or URI that holds all runs, each in a folder of its name."""
    run_name: str = ""
    """Name of the run. The same name again resumes it. Default: the preset's name."""
    restart: bool = False
    """Delete the run of this name and start over."""
    storage_timeout: str = "10m"
    """How long to try again while an object store does not answer, as 90s, 10m or 2h."""
    cluster_may_grow_to: str = ""
    """Machines besides the head that an autoscaler may bring the cluster to, as 4x8CPU+1GPU (four
    of 8 CPUs and 1 GPU each); several kinds are separated by commas. Default: what Ray's cluster
    launcher or KubeRay allows for, and on any other cluster the machines that are there."""
    config: str = ""
    """JSON file of options (such as a run's config.json) that replace the preset's defaults."""
    price: float = 0.0
    """What a worker costs in an hour, in any currency, to say at the end what the job has cost."""
    verbose: bool = False
    """Show Ray's own messages."""

    def __post_init__(self) -> None:
        _ = self.patience
        require_at_least(self, 0, "price")
        machines_of(self.cluster_may_grow_to)

    @property
    def machines(self) -> list[dict[str, float]]:
        """Resources of each machine that `cluster_may_grow_to` names."""
        return machines_of(self.cluster_may_grow_to)
