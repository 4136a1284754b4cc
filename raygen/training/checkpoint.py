"""Checkpoints: one safetensors file per network, the optimizers and the run's position beside.

A checkpoint is a folder `step-<number>` in a run's `checkpoints/`:

    <network>.safetensors     one per network, loadable by any safetensors reader
    optimizers.safetensors    the optimizers' tensors
    state.json                position, options, optimizers' numbers, size and SHA-256 of each file

`state.json` is written last, so a checkpoint that has one is complete; one without is ignored, and
deleted when the run goes on. Nothing is pickled.
"""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from raygen.core.checked import Checked, bare, shown
from raygen.core.errors import CheckpointError, StorageError
from raygen.core.parallel import for_each
from raygen.core.status import Position
from raygen.core.storage import Folder, unreadable
from raygen.models.base import Model
from raygen.training.checkpoint_index import (
    ADVICE,
    FORMAT_VERSION,
    STATE,
    Score,
    at_step,
    best_step,
    complete,
    position_of,
    read_checked_state,
    read_state,
    step_of,
)
from raygen.training.checkpoint_state import (
    check_optimizer,
    difference,
    layout_of,
    read_layout,
)

OPTIMIZERS = "optimizers.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """A copy of a model's state to save, so that training can go on meanwhile.

    Attributes:
        tensors: tensors by file and name, on the CPU.
        optimizers: the rest of the optimizers' state, as JSON values.
    """

    tensors: dict[str, dict[str, torch.Tensor]]
    optimizers: dict[str, Any]

    @staticmethod
    def of(model: Model) -> "Snapshot":
        files = {
            f"{name}.safetensors": _copied(network.state_dict())
            for name, network in model.networks.items()
        }
        tensors, numbers = _pack_optimizers(model.optimizers)
        return Snapshot(files | {OPTIMIZERS: tensors}, numbers)


def write(
    folder: Folder,
    snapshot: Snapshot,
    position: Position,
    about: dict[str, Any],
    keep: int,
    score: Score | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Folder:
    """Write a checkpoint, then delete all but the newest `keep` and the best one.

    Args:
        folder: the run's folder of checkpoints.
        about: the run's options and dataset, to record in the checkpoint.
        score: how good the model is, if that was measured.
        metrics: all metrics that were measured at this point, by name.
    Returns: the checkpoint's folder.
    Raises: StorageError if it cannot be written; nothing of it is left then.
    """
    target = at_step(folder, position.global_step)
    # An unfinished checkpoint of the same step may be in the way.
    _delete(target)
    try:
        _write(target, snapshot, position, about, score, metrics)
    except BaseException:
        # Half a checkpoint takes up space that the next attempt may need.
        with contextlib.suppress(OSError, StorageError):
            # The storage may be what failed, and has been waited for already.
            target.patient(0).delete()
        raise
    best = best_step(folder)
    for old in complete(folder)[:-keep]:
        if step_of(old) != best:
            _delete(folder.join(old))
    return target


def _delete(checkpoint: Folder) -> None:
    """Delete a checkpoint, `state.json` first, so that it never counts as complete meanwhile."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        checkpoint.delete_file(STATE)
    checkpoint.delete()


def _write(
    target: Folder,
    snapshot: Snapshot,
    position: Position,
    about: dict[str, Any],
    score: Score | None,
    metrics: Mapping[str, float] | None,
) -> None:
    digests = {}
    for name, content in snapshot.tensors.items():
        data = save_tensors(content)
        target.write_bytes(name, data)
        digests[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    state = {"format_version": FORMAT_VERSION, "position": asdict(position), "about": about}
    state |= {"score": score.value if score else None, "metrics": dict(metrics or {})}
    if score:
        state |= {"score_metric": score.metric, "score_images": score.images}
    state |= {"optimizers": snapshot.optimizers, "files": digests}
    target.write_json(STATE, state)


def load(checkpoint: Folder, model: Model) -> Position:
    """Put a checkpoint's weights and optimizer states into a model of the same options.

    If the model's options differ from the checkpoint's, its optimizers keep their own learning
    rates and decays.

    Raises: CheckpointError if a file is missing, damaged, or made by another model.
    """
    state = read_checked_state(checkpoint)
    _check_networks(checkpoint, model, state)
    saved = _check_optimizers(checkpoint, model, state)
    tensors = _read(checkpoint, OPTIMIZERS, state)
    for name, tensor in tensors.items():
        # Other state, such as step counts, is needed for the optimizers' bias corrections.
        if not tensor.ndim and not 0 <= tensor.item() < math.inf:
            raise CheckpointError(
                f"{checkpoint.join(OPTIMIZERS).uri}: damaged ({name} is {tensor.item()}); {ADVICE}"
            )
    _load_weights(checkpoint, model, state)
    own = {name: _group_settings(optimizer) for name, optimizer in model.optimizers.items()}
    _unpack_optimizers(model.optimizers, tensors, state.value["optimizers"], saved)
    made_by = state.value["about"].get("config", {})
    if any(made_by.get(name, mine) != mine for name, mine in asdict(model.config.model).items()):
        for name, groups in own.items():
            for group, settings in zip(model.optimizers[name].param_groups, groups, strict=True):
                group.update(settings)
    return position_of(state)


def _check_optimizers(
    checkpoint: Folder, model: Model, state: Checked
) -> dict[str, list[dict[str, Any]]]:
    """Read each optimizer's parameter groups. Raises: CheckpointError if they do not fit."""
    found = state.entry("optimizers").entries()
    if found.keys() != model.optimizers.keys():
        names = ", ".join(model.optimizers)
        state.refuse(f"optimizers does not fit this model, whose optimizers are {names}")
    with _explained(checkpoint, OPTIMIZERS):
        layout = read_layout(checkpoint, OPTIMIZERS, state, checkpoint.sizes())
    owners = {name.rpartition("/")[0] for name in layout}
    known = {
        f"{name}/{number}"
        for name, optimizer in model.optimizers.items()
        for number in range(sum(len(group["params"]) for group in optimizer.param_groups))
    }
    if owners - known:
        unknown = min(owners - known)
        raise CheckpointError(
            f"{checkpoint.join(OPTIMIZERS).uri}: damaged ({shown(unknown)} is no parameter of this "
            f"model); {ADVICE}"
        )
    return {
        name: check_optimizer(found[name], name, optimizer, layout)
        for name, optimizer in model.optimizers.items()
    }


def _group_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """An optimizer's settings, such as learning rates, for each of its parameter groups."""
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


def adopt(source: Folder, folder: Folder) -> None:
    """Copy a checkpoint of any run into a run's folder of checkpoints, as its only one.

    Raises: CheckpointError if the source is not a checkpoint.
    """
    state = read_state(source)
    target = at_step(folder, state["position"]["global_step"])
    _delete(target)
    for_each(lambda name: target.write_bytes(name, source.read_bytes(name)), state["files"])
    target.write_json(STATE, state)
    for old in complete(folder):
        if old != target.name:
            _delete(folder.join(old))


def load_networks(checkpoint: Folder, model: Model) -> None:
    """Put only a checkpoint's weights into a model of the same options.

    Args: model: may be on torch's meta device, without memory; it has memory afterwards.
    Raises: CheckpointError if a file is missing, damaged, or made by another model.
    """
    state = read_checked_state(checkpoint)
    _check_networks(checkpoint, model, state)
    _load_weights(checkpoint, model, state)


def _check_networks(checkpoint: Folder, model: Model, state: Checked) -> None:
    made_by = state.value["about"].get("config", {})
    for name in ("family", "size", "width"):
        mine = getattr(model.config, name)
        # Earlier versions noted neither family nor size.
        if made_by.get(name, mine) != mine:
            raise CheckpointError(
                f"{checkpoint.uri}: was made with {name} {bare(made_by[name])}, but this run has "
                f"{name} {mine}; it belongs to another run"
            )
    sizes = checkpoint.sizes()
    for name, network in model.networks.items():
        file = f"{name}.safetensors"
        with _explained(checkpoint, file):
            found = read_layout(checkpoint, file, state, sizes)
        problem = difference(found, layout_of(network.state_dict()))
        if problem:
            raise CheckpointError(
                f"{checkpoint.uri}: {name} does not fit this model ({problem}); use the options "
                "it was trained with"
            )


def _load_weights(checkpoint: Folder, model: Model, state: Checked) -> None:
    for name, network in model.networks.items():
        tensors = _read(checkpoint, f"{name}.safetensors", state)
        # A network on the meta device adopts the tensors, so that none is held twice.
        network.load_state_dict(tensors, assign=any(p.is_meta for p in network.parameters()))


def _read(checkpoint: Folder, name: str, state: Checked) -> dict[str, torch.Tensor]:
    """Read the tensors of a file whose layout has been checked."""
    listed = state.value["files"][name]
    with _explained(checkpoint, name):
        data = checkpoint.read_bytes(name, listed["bytes"] + 1)
        if hashlib.sha256(data).hexdigest() != listed["sha256"]:
            raise CheckpointError(
                f"{checkpoint.join(name).uri}: damaged (its SHA-256 has changed); {ADVICE}"
            )
        tensors: dict[str, torch.Tensor] = load_tensors(data)
        return tensors


@contextlib.contextmanager
def _explained(checkpoint: Folder, name: str) -> Iterator[None]:
    """Turn read errors into a CheckpointError that names the file."""
    where = checkpoint.join(name).uri
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{where}: is missing; {ADVICE}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{where}: damaged ({error}); {ADVICE}") from error
    except OSError as error:
        raise unreadable(where, error, CheckpointError) from error


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # safetensors stores row-major tensors only, but weights may be channels_last.
    return {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, tensor in tensors.items()
    }


def _pack_optimizers(
    optimizers: dict[str, torch.optim.Optimizer],
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split the state into tensors `<optimizer>/<parameter number>/<key>` and JSON values."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        others: dict[str, dict[str, Any]] = {}
        for number, values in state["state"].items():
            for key, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{name}/{number}/{key}"] = value
                else:
                    others.setdefault(str(number), {})[key] = value
        numbers[name] = {"param_groups": state["param_groups"], "state": others}
    return _copied(tensors), numbers


def _unpack_optimizers(
    optimizers: dict[str, torch.optim.Optimizer],
    tensors: dict[str, torch.Tensor],
    numbers: dict[str, Any],
    groups: dict[str, list[dict[str, Any]]],
) -> None:
    """Load checked state into the optimizers. Args: groups: each optimizer's param_groups."""
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {
            int(number): dict(values) for number, values in numbers[name]["state"].items()
        }
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for path, tensor in tensors.items():
            owner, number, key = path.split("/")
            if owner == name:
                parameter = parameters[int(number)]
                if tensor.shape == parameter.shape:
                    # Restore the parameter's memory layout, which the file does not keep.
                    tensor = torch.empty_like(parameter, device="cpu").copy_(tensor)
                state.setdefault(int(number), {})[key] = tensor.detach()
        optimizer.load_state_dict({"state": state, "param_groups": groups[name]})
