"""Listing a run's checkpoints and reading their `state.json`. Does not need torch."""

import math
import re
from dataclasses import dataclass, fields
from itertools import compress
from typing import Any

from raygen.core.checked import Checked, shown
from raygen.core.errors import CheckpointError
from raygen.core.parallel import parallel
from raygen.core.status import Position
from raygen.core.storage import Folder

FORMAT_VERSION = 1
STATE = "state.json"
NAME = re.compile(r"step-\d{1,18}", re.ASCII)
"""Matches the names of checkpoint folders."""
ADVICE = "delete this checkpoint to go on from the one before"
FILE = r"\w[\w.-]{0,200}\.safetensors"
"""Matches names of a checkpoint's files, which must not lead out of its folder."""


@dataclass(frozen=True)
class Score:
    """A measurement of a model's quality.

    Attributes:
        value: lower is better; finite.
        metric: the metric's name.
        images: number of validation images. Scores are comparable only if metric and number of
            images are equal.
    """

    value: float
    metric: str
    images: int

    def is_comparable(self, other: "Score") -> bool:
        return (self.metric, self.images) == (other.metric, other.images)


def at_step(folder: Folder, step: int) -> Folder:
    """The folder for the checkpoint of a step, whether it exists or not."""
    return folder.join(f"step-{step:08d}")


def latest(folder: Folder) -> Folder | None:
    """The latest complete checkpoint, from which a run goes on."""
    for name in reversed(_begun(folder)):
        if folder.join(name).exists(STATE):
            return folder.join(name)
    return None


def best(folder: Folder) -> tuple[int, Score] | None:
    """Step and score of the best complete checkpoint, if any has been measured.

    If they were measured in different ways, only those measured like the latest one count.
    """
    scores = _scores(folder)
    if not scores:
        return None
    last = scores[max(scores)]
    comparable = [step for step, score in scores.items() if score.is_comparable(last)]
    step = min(comparable, key=lambda step: scores[step].value)
    return step, scores[step]


def best_step(folder: Folder) -> int | None:
    """The step of the best complete checkpoint; see `best`."""
    found = best(folder)
    return found[0] if found else None


def best_value(folder: Folder, metric: str, images: int) -> float | None:
    """The lowest score among complete checkpoints measured by this metric on so many images."""
    wanted = Score(0.0, metric, images)
    values = [score.value for score in _scores(folder).values() if score.is_comparable(wanted)]
    return min(values, default=None)


def _scores(folder: Folder) -> dict[int, Score]:
    def read(name: str) -> Score | None:
        try:
            return _score_of(read_state(folder.join(name)))
        except CheckpointError:
            if folder.join(name).exists(STATE):
                raise
            # The run that is training has just deleted it for a newer one.
            return None

    names = complete(folder)
    scores = zip(map(step_of, names), parallel(read, names), strict=True)
    return {step: score for step, score in scores if score}


def _score_of(state: dict[str, Any]) -> Score | None:
    """The score that a checkpoint was saved with; None if it is missing or not finite."""
    value = state.get("score")
    if value is None or not math.isfinite(value):
        return None
    # Earlier versions saved only the number.
    images = state["about"].get("config", {}).get("validation_count", 0)
    return Score(value, state.get("score_metric", ""), state.get("score_images", images))


def clean(folder: Folder) -> list[str]:
    """Delete incomplete checkpoints whose writers were killed.

    Only the run's owner may call this: another job may just be writing one.

    Returns: the names of the deleted checkpoints.
    """
    whole = set(complete(folder))
    names = [name for name in folder.names() if NAME.fullmatch(name) and name not in whole]
    for name in names:
        folder.join(name).delete()
    return names


def step_of(name: str) -> int:
    """Parse the step from a checkpoint's name."""
    return int(name.removeprefix("step-"))


def complete(folder: Folder) -> list[str]:
    """Names of the complete checkpoints, oldest first."""
    names = _begun(folder)
    whole = parallel(lambda name: folder.join(name).exists(STATE), names)
    return list(compress(names, whole))


def _begun(folder: Folder) -> list[str]:
    """Names of all checkpoints, complete or not, oldest first."""
    # Sort by number: a name with more than the usual eight digits would sort before shorter ones.
    return sorted(filter(NAME.fullmatch, folder.names()), key=step_of)


def read_state(checkpoint: Folder) -> dict[str, Any]:
    """Read a checkpoint's `state.json`.

    Raises: CheckpointError if it is missing, damaged or of another version.
    """
    state: dict[str, Any] = read_checked_state(checkpoint).value
    return state


def read_checked_state(checkpoint: Folder) -> Checked:
    try:
        state = checkpoint.read_checked(STATE, CheckpointError, ADVICE)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{checkpoint.uri}: holds no {STATE}; it is no checkpoint") from None
    version = state.entry("format_version").value
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{checkpoint.uri}: checkpoint format {shown(version)}, but this raygen reads format "
            f"{FORMAT_VERSION}; use the raygen that wrote it, or train again"
        )
    check_state(state, checkpoint.name)
    return state


def read_position(checkpoint: Folder) -> Position:
    """The position at which a checkpoint was saved. Raises: CheckpointError."""
    return position_of(read_checked_state(checkpoint))


def check_state(state: Checked, folder: str) -> None:
    """Check the content of `state.json`, as far as that is possible without the model.

    Args: folder: the name of the checkpoint's folder.
    Raises: CheckpointError.
    """
    position = position_of(state)
    named = re.fullmatch(r"step-(\d{1,18})", folder, re.ASCII)
    if named and int(named[1]) != position.global_step:
        state.entry("position").entry("global_step").fail(f"{int(named[1])}, as in {folder}")
    about = state.entry("about").entries()
    for name in ("dataset", "run"):
        if name in about:
            about[name].text()
    if "config" in about:
        about["config"].entries()
    for name in ("score", "metrics", "score_metric", "score_images"):
        _check_score(name, state.optional(name))
    for name, file in state.entry("files").entries().items():
        if not re.fullmatch(FILE, name):
            file.refuse(f"{file.path} is no name of a file of tensors")
        file.entry("bytes").integer()
        file.entry("sha256").text("[0-9a-f]{64}", "a SHA-256 in hexadecimal")
    for optimizer in state.entry("optimizers").entries().values():
        for group in optimizer.entry("param_groups").items():
            group.entries()
        for values in optimizer.entry("state").entries().values():
            values.entries()


def _check_score(name: str, value: Checked | None) -> None:
    # Earlier versions lack some, and a run that was not measured has none.
    if value is None or value.value is None:
        return
    if name == "score":
        value.number(finite=False)
    elif name == "metrics":
        for metric in value.entries().values():
            metric.number(finite=False)
    elif name == "score_metric":
        value.text()
    else:
        value.integer()


def position_of(state: Checked) -> Position:
    """The position at which a checkpoint was saved. Raises: CheckpointError."""
    values = state.entry("position")
    values.only([field.name for field in fields(Position)])
    found = values.entries()
    return Position(
        global_step=values.entry("global_step").integer(),
        # Earlier versions lack some.
        images_seen=found["images_seen"].integer() if "images_seen" in found else 0,
        seconds=found["seconds"].number(at_least=0) if "seconds" in found else 0.0,
        restores=found["restores"].integer(0, 1_000) if "restores" in found else 0,
    )
