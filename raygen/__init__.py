"""raygen: train, tune and compare classic deep generative image models on Ray."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raygen.core.output import open_missing
from raygen.core.version import VERSION

if TYPE_CHECKING:
    from raygen.comparison.page import Comparison
    from raygen.comparison.runs import RunInfo
    from raygen.core.status import Callbacks
    from raygen.data.shards.manifest import Manifest
    from raygen.evaluation.record import Evaluation
    from raygen.inference.model import TrainedModel
    from raygen.jobs.tune import Findings
    from raygen.training.summary import Summary

# `uv run` would otherwise make Ray start every worker through `uv run` in a second environment
# that it installs from a copy of the working directory. Ray reads this while it is imported, so
# it has to be set before anything in raygen imports Ray.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

# Before anything else opens files.
open_missing()

__version__ = VERSION


def prepare(kind: str, out: str, *, quiet: bool = False, **options: Any) -> list["Manifest"]:
    """Turn images into a dataset that `train` reads; what is there already is left as it is.

    Like all functions here, it uses the Ray that this process is connected to, or else the cluster
    of `RAY_ADDRESS`, or starts a Ray for itself alone.

    Args:
        kind: where the images come from: celeba, anime, folder, huggingface or drawn.
        out: folder or URI to write the dataset to.
        quiet: tell nothing on the terminal.
        options: those of `jobs/prepare.py`, by name: images="photos", size=64, count=2_000, ...
    Returns: what the dataset holds; one for each size, where there are several.
    Raises: UserError for a mistake; RunError if the work cannot go on. What is finished is kept.
    """
    from raygen.jobs.calls import prepare as call

    return call(kind, out, quiet, options)


def train(
    preset: str = "dcgan-celeba",
    *,
    quiet: bool = False,
    callbacks: "Callbacks | None" = None,
    **options: Any,
) -> "Summary":
    """Train a model; the same call again goes on with the run.

    Args:
        preset: the model and its defaults.
        quiet: tell nothing on the terminal.
        callbacks: its methods are called, in this process, with the run's progress and what is
            measured; where `progress` returns True, the run is saved and ended.
        options: those of `jobs/train.py`, by name: data="data/celeba-32", steps=1_500, lr_g=1e-4,
            storage="runs", run_name="mine", restart=True, ...
    Returns: how the run ended, with the last value of each metric.
    Raises: those of `raygen.core.errors`: UserError for a mistake; RunError if the training fails;
        Interrupted if it was ended early. What is saved is kept.
    """
    from raygen.jobs.calls import train as call

    return call(preset, quiet, callbacks, options)


def tune(preset: str = "dcgan-celeba", *, quiet: bool = False, **options: Any) -> "Findings":
    """Search for better options of a preset.

    Args:
        preset: the model and its defaults.
        quiet: tell nothing on the terminal.
        options: those of `jobs/tune.py`, by name: trials=24, steps=500, set=["lr_g=uniform(0,1)"],
            resume=True, ...
    Returns: all trials, and the options of the best one.
    Raises: as `train`; RunError too if no trial could be measured.
    """
    from raygen.jobs.calls import tune as call

    return call(preset, quiet, options)


def load(run: str, checkpoint: str | int = "last", device: str = "cpu") -> "TrainedModel":
    """A trained model, to sample from, reconstruct, encode and decode with. Ray is not needed.

    Args:
        run: folder or URI of a run, such as runs/dcgan-celeba.
        checkpoint: last, best (by the validation images), or the number of a step.
        device: where to compute, as torch names it.
    Raises: UserError if there is no such run or checkpoint, or if its weights are not finite;
        CheckpointError if its files are missing, damaged, or do not belong to the run.
    """
    # Imported here because torch takes seconds to import, and `import raygen` should not.
    from raygen.inference.model import load as load_trained

    return load_trained(run, checkpoint, device)


def evaluate(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    *,
    quiet: bool = False,
    **options: Any,
) -> list["Evaluation"]:
    """Measure trained models, or any images, on images that nothing was chosen on.

    What is found is written to `evaluation.json` in each run's folder too.

    Args:
        runs: folder or URI of a run, such as runs/dcgan-celeba, or several of them; none, where the
            option `images` names a folder of images instead.
        quiet: tell nothing on the terminal.
        options: those of `jobs/evaluate.py`, by name: samples=5_000, checkpoint="last",
            data="data/celeba-64", weights=["inception.pth"], out="found.json", ...
    Returns: an evaluation for each run: its figures, by tag, each with its interval, the floor that
        real images reach and the untrained network's value.
    Raises: UserError for a mistake; RunError if the work cannot go on.
    """
    from raygen.jobs.calls import evaluate as call

    return call(runs, quiet, options)


def compare(
    runs: Sequence[str | os.PathLike[str]] = (), *, quiet: bool = False, **options: Any
) -> "Comparison | None":
    """Compare trained models side by side, and write a page.

    Runs that differ in nothing but their seeds are one contender. Those that have not been measured
    yet are measured first, see `evaluate`. With `suite`, in place of runs, the contenders are
    trained first.

    Args:
        runs: folders or URIs of runs.
        quiet: tell nothing on the terminal.
        options: those of `jobs/compare.py`, by name: out="comparison", samples=5_000, ... With
            `suite` also those of trainings, which apply to all contenders: width=0.5, ...
    Returns: what the page shows: figures, what is established of them, and pictures; None with
        dry_run=True.
    Raises: UserError for a mistake; RunError if the work cannot go on.
    """
    from raygen.jobs.calls import compare as call

    return call(runs, quiet, options)


def list_runs(storage: str | os.PathLike[str] = "runs") -> list["RunInfo"]:
    """The runs that a storage holds: trainings, and the trials of sweeps. Torch is not needed.

    Runs that cannot be read are listed as well, with what is known of them and a `problem`.

    Args: storage: folder or URI, as jobs have it for --storage; or a single run or sweep.
    Returns: in the order of their names, each with its options, its position and what it measured.
    Raises: UserError if the storage does not exist or cannot be reached.
    """
    from raygen.comparison.runs import list_runs as list_all

    return list_all(storage)
