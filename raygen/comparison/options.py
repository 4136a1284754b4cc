"""What to compare, and how."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from raygen.config.fields import ConfigFile, require_at_least, require_seed
from raygen.inference.options import LEAST_SAMPLES


@dataclass(frozen=True)
class CompareOptions:
    """What to compare, and how."""

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN")] = ()
    """Folders or URIs of runs, such as runs/dcgan-celeba; those that differ in nothing but their
    seeds are one contender."""
    out: str = "comparison"
    """Folder or URI for the page (index.html), its figures (comparison.json) and every seed's
    scores (comparison.csv)."""
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
    verbose: bool = False
    """Show Ray's own messages too."""
    config: ConfigFile = ""

    def __post_init__(self) -> None:
        require_seed(self)
        require_at_least(self, LEAST_SAMPLES, "samples")
        require_at_least(self, 0, "price")
