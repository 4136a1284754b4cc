"""Checkpoints: exact, complete or ignored, and never pickled."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import batch_of, random_images, save_checkpoint, tiny_config
from safetensors.torch import load_file

from raygen.core.errors import CheckpointError, StorageError
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.data.pixels import scale_images
from raygen.models import build_model
from raygen.models.base import Model, Step
from raygen.training import checkpoint, checkpoint_index
from raygen.training.checkpoint_index import Score

CPU = torch.device("cpu")


def build(**options: Any) -> Model:
    model = build_model(tiny_config(**options))
    model.to(CPU)
    return model


def train(model: Model, first: int, stop: int) -> dict[str, torch.Tensor]:
    metrics = {}
    for k in range(first, stop):
        metrics = model.update(
            batch_of(scale_images(random_images(8, seed=k), CPU)), Step(k, 100, 8, 8 * k)
        )
    return metrics


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, network in model.networks.items()
        for key, value in network.state_dict().items()
    }


def save(path: Path, model: Model, step: int, keep: int = 3) -> Folder:
    position = Position(step, 8 * step, 1.5)
    return save_checkpoint(Folder.at(path), model, position, {"config": {}}, keep)


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
    assert checkpoint_index.complete(Folder.at(tmp_path)) == ["step-00000010", "step-00000011"]
    assert checkpoint_index.latest(Folder.at(tmp_path)) == Folder.at(tmp_path / "step-00000011")
    assert checkpoint_index.latest(Folder.at(tmp_path / "nowhere")) is None


def test_a_deletion_that_is_cut_off_leaves_no_checkpoint_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(self: Folder) -> None:
        if self.exists():
            raise KeyboardInterrupt

    model, folder = build(), Folder.at(tmp_path)
    save(tmp_path, model, 1, keep=1)
    monkeypatch.setattr(Folder, "delete", cut_off)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, model, 2, keep=1)
    assert checkpoint_index.complete(folder) == ["step-00000002"]
    assert sorted(folder.names()) == ["step-00000001", "step-00000002"]


def save_scored(folder: Folder, step: int, score: Score | None, keep: int = 2) -> None:
    save_checkpoint(folder, build(), Position(step), {"config": {}}, keep, score)


def scored(value: float, images: int = 100) -> Score:
    return Score(value, "quality/swd", images)


def test_the_best_checkpoint_is_never_deleted(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    assert checkpoint_index.best_step(folder) is None
    assert checkpoint_index.best_value(folder, "quality/swd", 100) is None
    for step, value in ((1, 5.0), (2, 3.0), (3, 4.0), (4, None), (5, None)):
        save_scored(folder, step, None if value is None else scored(value))
    assert checkpoint_index.complete(folder) == [f"step-0000000{step}" for step in (2, 4, 5)]
    assert checkpoint_index.best_step(folder) == 2
    assert checkpoint_index.best_value(folder, "quality/swd", 100) == 3.0


def test_a_checkpoint_that_is_deleted_while_scores_are_read_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.at(tmp_path)
    save_scored(folder, 1, scored(5.0))
    # The job looks at the scores while a worker replaces checkpoints.
    monkeypatch.setattr(
        checkpoint_index, "complete", lambda folder: ["step-00000001", "step-00000002"]
    )
    assert checkpoint_index.best_step(folder) == 1
    folder.join("step-00000002").write_bytes("state.json", b"{")
    with pytest.raises(CheckpointError, match="step-00000002"):
        checkpoint_index.best_step(folder)


def test_a_score_that_is_not_finite_is_none(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    save_scored(folder, 1, scored(math.nan))
    assert checkpoint_index.best_step(folder) is None
    save_scored(folder, 2, scored(7.0))
    save_scored(folder, 3, scored(math.inf))
    save_scored(folder, 4, scored(-math.inf))
    assert checkpoint_index.best_step(folder) == 2
    assert checkpoint_index.best_value(folder, "quality/swd", 100) == 7.0


def test_scores_that_were_measured_otherwise_do_not_count(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    # Of fewer images, a distance is another one.
    save_scored(folder, 1, scored(1.0, images=10), keep=9)
    save_scored(folder, 2, scored(8.0), keep=9)
    save_scored(folder, 3, scored(9.0), keep=9)
    save_scored(folder, 4, None, keep=9)
    assert checkpoint_index.best_step(folder) == 2
    assert checkpoint_index.best_value(folder, "quality/swd", 100) == 8.0
    assert checkpoint_index.best_value(folder, "quality/swd", 10) == 1.0
    assert checkpoint_index.best_value(folder, "validation/mse", 100) is None


def test_scores_of_earlier_versions_are_compared_with_each_other(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    for step, value in ((1, 5.0), (2, 3.0), (3, 4.0)):
        save_scored(folder, step, scored(value), keep=9)
        file = tmp_path / f"step-0000000{step}/state.json"
        state = json.loads(file.read_text())
        del state["score_metric"], state["score_images"]
        file.write_text(json.dumps(state))
    assert checkpoint_index.best_step(folder) == 2


def test_checkpoints_are_ordered_by_number(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    for step in (99_999_999, 100_000_000, 123_456_789):
        save_scored(folder, step, None)
    assert checkpoint_index.latest(folder) == folder.join("step-123456789")
    assert checkpoint_index.complete(folder) == ["step-100000000", "step-123456789"]


def test_what_killed_writers_left_is_cleaned_away(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    save_scored(folder, 3, None)
    for name in ("step-00000002", "step-00000004", "step-notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "generator.safetensors").write_bytes(b"half")
    assert checkpoint_index.clean(folder) == ["step-00000002", "step-00000004"]
    assert folder.names() == ["step-00000003", "step-notes"]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.at(tmp_path)
    save_scored(folder, 1, None)
    written: list[str] = []

    def write(self: Folder, name: str, data: bytes) -> None:
        written.append(name)
        if len(written) == 3:
            raise StorageError("No space left on device")
        Path(self.path).mkdir(exist_ok=True)
        Path(self.path, name).write_bytes(data)

    monkeypatch.setattr(Folder, "write_bytes", write)
    with pytest.raises(StorageError):
        save_scored(folder, 2, None)
    assert folder.names() == ["step-00000001"]


def test_an_unfinished_checkpoint_is_ignored_and_replaced(tmp_path: Path) -> None:
    model = build()
    save(tmp_path, model, 1)
    unfinished = tmp_path / "step-00000002"
    unfinished.mkdir()
    (unfinished / "generator.safetensors").write_bytes(b"half")
    assert checkpoint_index.complete(Folder.at(tmp_path)) == ["step-00000001"]
    save(tmp_path, model, 2)
    assert checkpoint_index.complete(Folder.at(tmp_path))[-1] == "step-00000002"
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
    for family, width in (("vae:VAE", 0.125), ("dcgan:DCGAN", 0.5)):
        about = {"config": {"family": family, "width": width}}
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


def rates(model: Model) -> dict[str, tuple[float, float]]:
    groups = {name: o.param_groups[0] for name, o in model.optimizers.items()}
    return {name: (group["lr"], group["betas"][0]) for name, group in groups.items()}


def test_with_other_options_optimizers_keep_what_they_learnt_but_take_new_rates(
    tmp_path: Path,
) -> None:
    model = build(lr_g=1e-3, lr_d=2e-3, beta1=0.5)
    train(model, 0, 2)
    for optimizer in model.optimizers.values():
        optimizer.param_groups[0]["lr"] /= 2
    about = {"config": model.config.to_json()}
    folder = save_checkpoint(Folder.at(tmp_path), model, Position(2), about, 3)
    same = build(lr_g=1e-3, lr_d=2e-3, beta1=0.5)
    checkpoint.load(folder, same)
    # Halved, as after a loss that was not finite.
    assert rates(same) == {"generator": (5e-4, 0.5), "discriminator": (1e-3, 0.5)}
    other = build(lr_g=3e-3, lr_d=2e-3, beta1=0.0)
    checkpoint.load(folder, other)
    assert rates(other) == {"generator": (3e-3, 0.0), "discriminator": (2e-3, 0.0)}
    for name, value in weights(model).items():
        assert torch.equal(weights(other)[name], value), name
    for name, optimizer in model.optimizers.items():
        theirs = other.optimizers[name].state_dict()["state"]
        for number, state in optimizer.state_dict()["state"].items():
            assert torch.equal(state["exp_avg"], theirs[number]["exp_avg"])


def test_a_checkpoint_of_another_run_replaces_all_of_a_run_s_own(tmp_path: Path) -> None:
    donor, own = build(seed=1), build(seed=2)
    train(donor, 0, 1)
    source = save(tmp_path / "donor", donor, 5)
    for step in (4, 5, 6):
        save(tmp_path / "own", own, step)
    folder = Folder.at(tmp_path / "own")
    checkpoint.adopt(source, folder)
    assert checkpoint_index.complete(folder) == ["step-00000005"]
    restored = build(seed=2)
    assert checkpoint.load(checkpoint_index.at_step(folder, 5), restored).global_step == 5
    for name, value in weights(donor).items():
        assert torch.equal(weights(restored)[name], value), name
    with pytest.raises(CheckpointError, match="holds no state.json"):
        checkpoint.adopt(Folder.at(tmp_path / "nowhere"), folder)


def test_what_was_measured_is_kept_with_the_networks(tmp_path: Path) -> None:
    metrics = {"quality/swd": 3.5, "validation/mse": 0.1}
    folder = save_checkpoint(Folder.at(tmp_path), build(), Position(1), {}, 3, scored(3.5), metrics)
    assert checkpoint_index.read_state(folder)["metrics"] == metrics


@pytest.mark.parametrize("name", ["../../mine", "../state.json", "a/../../b", "/"])
def test_a_checkpoint_that_names_files_elsewhere_is_not_taken_over(
    tmp_path: Path, name: str
) -> None:
    source, own = save(tmp_path / "theirs", build(), 3), save(tmp_path / "own", build(), 3)
    (tmp_path / "mine").write_text("mine")
    state = source.read_json("state.json")
    state["files"][name if name != "/" else str(tmp_path / "mine")] = {
        "bytes": 4,
        "sha256": "0" * 64,
    }
    source.write_json("state.json", state)
    before = own.sizes()
    with pytest.raises(CheckpointError, match="is no name of a file of tensors"):
        checkpoint.adopt(source, Folder.at(tmp_path / "own"))
    assert own.sizes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine", "own", "theirs"]
    assert (tmp_path / "mine").read_text() == "mine"
