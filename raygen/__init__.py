"""raygen: train, tune and compare classic deep generative image models on Ray."""

import os
from typing import TYPE_CHECKING

from raygen.core.output import open_missing
from raygen.core.version import VERSION

if TYPE_CHECKING:
    from raygen.comparison.runs import RunInfo
    from raygen.inference.model import TrainedModel

# `uv run` would otherwise make Ray start every worker through `uv run` in a second environment
# that it installs from a copy of the working directory. Ray reads this while it is imported, so
# it has to be set before anything in raygen imports Ray.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

# Before anything else opens files.
open_missing()

__version__ = VERSION


def load(run: str, checkpoint: str | int = "last", device: str = "cpu") -> "TrainedModel":
    """A trained model, to sample from, reconstruct, encode and decode with. Ray is not needed.

    Args:
        run: folder or URI of a run, such as runs/dcgan-celeba.
        checkpoint: last, best (by the validation images), or the number of a step.
        device: where to compute, as torch names it.
    Raises: UserError if there is no such run or checkpoint, or if its weights are not finite;
        CheckpointError if its files are missing, damaged, or do not belong to the run.
    """
    # Not above: torch takes seconds to import, which `import raygen` should not.
    from raygen.inference.model import load as load_trained

    return load_trained(run, checkpoint, device)


def list_runs(storage: str | os.PathLike[str] = "runs") -> list["RunInfo"]:
    """The runs that a storage holds: trainings, and the trials of sweeps. Torch is not needed.

    Runs that cannot be read are listed as well, with what is known of them and a `problem`.

    Args: storage: folder or URI, as jobs have it for --storage; or a single run or sweep.
    Returns: in the order of their names, each with its options, its position and what it measured.
    Raises: UserError if the storage does not exist or cannot be reached.
    """
    from raygen.comparison.runs import list_runs as list_all

    return list_all(storage)
