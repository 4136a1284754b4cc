"""Checkpoints: exact, complete or ignored, and never pickled."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import random_images, tiny_config
from safetensors.torch import load_file

from raygen.data.prefetch import scale_images
from raygen.errors import CheckpointError
from raygen.models import build_model
from raygen.models.base import Model, Step
from raygen.storage import Folder
from raygen.training import checkpoint
from raygen.training.checkpoint import Position

CPU = torch.device("cpu")


def build(**options: Any) -> Model:
    model = build_model(tiny_config(**options))
    model.to(CPU)
    return model


def train(model: Model, first: int, stop: int) -> dict[str, torch.Tensor]:
    metrics = {}
    for k in range(first, stop):
        metrics = model.update(scale_images(random_images(8, seed=k), CPU), Step(k, 100, 8, 8 * k))
    return metrics


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, network in model.networks.items()
        for key, value in network.state_dict().items()
    }


def save(path: Path, model: Model, step: int, keep: int = 3) -> Folder:
    position = Position(step, 8 * step, 1.5)
    return checkpoint.save(Folder.at(path), model, position, {"config": {}}, keep)


def test_a_restored_model_goes_on_exactly_as_the_one_that_was_saved(tmp_path: Path) -> None:
    model = build()
    train(model, 0, 3)
    folder = save(tmp_path, model, 3)
    restored = build(seed=9)
    assert checkpoint.load(folder, restored) == Position(3, 24, 1.5)
    for name, value in weights(model).items():
        assert torch.equal(weights(restored)[name], value), name
    # The noise depends on the run's seed, which a resumed run has; give it the same here.
    again = build()
    checkpoint.load(folder, again)
    assert train(model, 3, 5) == train(again, 3, 5)
    for name, value in weights(model).items():
        assert torch.equal(weights(again)[name], value), name


def test_a_checkpoint_is_plain_files_one_for_each_network(tmp_path: Path) -> None:
    model = build()
    train(model, 0, 1)
    folder = Path(save(tmp_path, model, 1).path)
    assert sorted(file.name for file in folder.iterdir()) == [
        "discriminator.safetensors",
        "generator.safetensors",
        "generator_ema.safetensors",
        "optimizers.safetensors",
        "state.json",
    ]
    generator = load_file(folder / "generator.safetensors")
    assert {k: v.shape for k, v in generator.items()} == {
        k: v.shape for k, v in model.networks["generator"].state_dict().items()
    }
    state = json.loads((folder / "state.json").read_text())
    assert state["position"] == {
        "global_step": 1,
        "images_seen": 8,
        "seconds": 1.5,
        "restores": 0,
    }


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    model = build()
    for step in (1, 2, 10, 11):
        save(tmp_path, model, step, keep=2)
    assert checkpoint.complete(Folder.at(tmp_path)) == ["step-00000010", "step-00000011"]
    assert checkpoint.latest_step(Folder.at(tmp_path)) == 11
    assert checkpoint.latest_step(Folder.at(tmp_path / "nowhere")) is None


def test_the_best_checkpoint_is_never_deleted(tmp_path: Path) -> None:
    model, folder = build(), Folder.at(tmp_path)
    assert (checkpoint.best_step(folder), checkpoint.best_score(folder)) == (None, None)
    for step, score in ((1, 5.0), (2, 3.0), (3, 4.0), (4, None), (5, None)):
        checkpoint.save(folder, model, Position(step), {"config": {}}, 2, score)
    assert checkpoint.complete(folder) == [f"step-0000000{step}" for step in (2, 4, 5)]
    assert (checkpoint.best_step(folder), checkpoint.best_score(folder)) == (2, 3.0)


def test_an_unfinished_checkpoint_is_ignored_and_replaced(tmp_path: Path) -> None:
    model = build()
    save(tmp_path, model, 1)
    unfinished = tmp_path / "step-00000002"
    unfinished.mkdir()
    (unfinished / "generator.safetensors").write_bytes(b"half")
    assert checkpoint.complete(Folder.at(tmp_path)) == ["step-00000001"]
    save(tmp_path, model, 2)
    assert checkpoint.complete(Folder.at(tmp_path))[-1] == "step-00000002"
    checkpoint.load(Folder.at(unfinished), build())


def test_what_does_not_fit_or_is_damaged_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, build(), 1)
    path = Path(folder.path)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        checkpoint.load(folder, build(width=0.25))
    with pytest.raises(CheckpointError, match=r"holds no state\.json"):
        checkpoint.load(Folder.at(tmp_path), build())
    data = bytearray((path / "generator.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "generator.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"generator\.safetensors: damaged .*SHA-256"):
        checkpoint.load(folder, build())
    (path / "generator.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"generator\.safetensors: is missing"):
        checkpoint.load(folder, build())
    state = json.loads((path / "state.json").read_text())
    for preset, width in (("vae-celeba", 0.125), ("dcgan-celeba", 0.5)):
        about = {"config": {"preset": preset, "width": width}}
        (path / "state.json").write_text(json.dumps(state | {"about": about}))
        with pytest.raises(CheckpointError, match="was made with .* belongs to another run"):
            checkpoint.load(folder, build())
    wrong: list[Any] = [{k: v for k, v in state.items() if k != "files"}, [1], {"position": {}}]
    for damaged in wrong:
        (path / "state.json").write_text(json.dumps(damaged))
        with pytest.raises(CheckpointError, match=r"state\.json: damaged|checkpoint format None"):
            checkpoint.load(folder, build())
    (path / "state.json").write_text(json.dumps(state | {"format_version": 7}))
    with pytest.raises(CheckpointError, match="checkpoint format 7"):
        checkpoint.load(folder, build())
