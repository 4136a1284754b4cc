"""What to compare, and how."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from raygen.config.fields import (
    ConfigFile,
    Patience,
    option,
    require_at_least,
    require_seed,
    seconds_of,
)
from raygen.config.machines import machines_of
from raygen.core.errors import UserError
from raygen.inference.options import LEAST_SAMPLES
from raygen.tuning.options import MOST_SEEDS


@dataclass(frozen=True)
class CompareOptions(Patience):
    """What to compare, and how."""

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Folders or URIs of runs, such as runs/dcgan-celeba; those that differ in nothing but their
    seeds are one contender."""
    suite: str = ""
    """In place of runs, contenders to train: celeba (VAE against DCGAN), anime (DCGAN 1:1 and
    two-phase, VAE-GAN larsen and article), or a JSON file or URI. Options of jobs/train.py, as
    --width, apply to all of them."""
    data: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What the runs were trained on, where they do not say it, or what a suite's trainings train
    on: a dataset, or a folder that jobs/prepare.py made with one for each --size. May be repeated
    for contenders of several sizes. Default: the runs' own; of a suite, drawn faces."""
    budget: str = "2h"
    """Time for all of a suite's trainings, as 90s, 30m or 2h."""
    seeds: int = 3
    """How many seeds each setting of a suite is trained with."""
    tune: bool = False
    """Search better settings of each of a suite's contenders first, with equal shares of half of
    the budget, and compare the best ones and the defaults."""
    images: int = 0
    """Images that each of a suite's trainings sees; 0: as many as fit into the budget."""
    dry_run: bool = False
    """Say what a suite would train, and how long that takes, and train nothing."""
    storage: str = ""
    """In place of runs, a folder or URI of runs: make a page that lists all of them and their
    sweeps, to pick from."""
    out: str = ""
    """Folder or URI for the page (index.html), its figures (comparison.json) and every seed's
    scores (comparison.csv). Default: comparison; with --storage, runs-index."""
    title: str = "Comparison"
    """Heading of the page."""
    samples: int = 10_000
    """How many images of each run to compare with as many test images; fewer where there are
    fewer."""
    weights: tuple[str, ...] = ()
    """Files of weights of pretrained extractors; see jobs/evaluate.py."""
    price: float = 0.0
    """What a worker costs in an hour, in any currency."""
    seed: int = 0
    """Decides the codes of samples and pictures, and which real images are taken."""
    cluster_may_grow_to: str = ""
    """Machines that an autoscaler may bring the cluster to for a suite; see jobs/train.py."""
    storage_timeout: str = "10m"
    """How long to try again while an object store does not answer, as 90s, 10m or 2h."""
    verbose: bool = False
    """Show Ray's own messages too."""
    config: ConfigFile = ""

    @property
    def folder(self) -> str:
        """Where to write."""
        return self.out or ("runs-index" if self.storage else "comparison")

    def __post_init__(self) -> None:
        require_seed(self)
        require_at_least(self, LEAST_SAMPLES, "samples")
        require_at_least(self, 0, "price", "images")
        require_at_least(self, 1, "seeds", most=MOST_SEEDS)
        seconds_of(self.budget, "--budget")
        _ = self.patience
        if self.suite and self.runs:
            raise UserError("--suite: trains its contenders itself; name no runs")
        if self.storage and (self.runs or self.suite):
            named = f"RUN ({self.runs[0]})" if self.runs else f"--suite ({self.suite})"
            raise UserError(f"--storage {self.storage}: lists all runs; name no {named} beside it")
        machines_of(self.cluster_may_grow_to)
        for name in ("tune", "images", "dry_run", "cluster_may_grow_to"):
            if getattr(self, name) and not self.suite:
                raise UserError(f"{option(name)}: is for a suite; name one with --suite")
