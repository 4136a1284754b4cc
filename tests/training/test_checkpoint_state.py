"""What a checkpoint says is checked before a number or a tensor of it is used."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import save_run, small_config
from safetensors.torch import load_file, save_file

import raygen
from raygen.core.errors import CheckpointError
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.models import build_model
from raygen.models.base import Model
from raygen.training import checkpoint, checkpoint_index

PRESETS_OF_EACH_OPTIMIZER: dict[str, dict[str, Any]] = {
    "dcgan-celeba": {},
    "vae-celeba": {"optimizer": "rmsprop"},
    "vaegan-anime": {"objective": "article", "schedule": "1:1"},
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save_run(tmp_path / "run", "dcgan-celeba")
    return tmp_path / "run/checkpoints/step-00000002"


def load(place: Path, preset: str = "dcgan-celeba", **options: Any) -> Model:
    model = build_model(small_config(preset, ema_images=1000, **options))
    checkpoint.load(Folder.at(place), model)
    return model


def change(place: Path, *path: str | int, to: Any) -> None:
    """Put another value into `state.json`."""
    state = json.loads((place / "state.json").read_text())
    inside = state
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = to
    (place / "state.json").write_text(json.dumps(state))


def replace_tensors(
    place: Path, name: str, edit: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    """Write a file of tensors anew, with its size and checksum in `state.json`."""
    tensors = load_file(place / name)
    edit(tensors)
    save_file(tensors, place / name)
    data = (place / name).read_bytes()
    digest = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change(place, "files", name, to=digest)


@pytest.mark.parametrize("preset", PRESETS_OF_EACH_OPTIMIZER)
def test_what_optimizers_remember_is_restored_exactly(tmp_path: Path, preset: str) -> None:
    options = PRESETS_OF_EACH_OPTIMIZER[preset]
    saved = save_run(tmp_path, preset, **options)
    model = load(tmp_path / "checkpoints/step-00000002", preset, **options)
    for name, optimizer in saved.optimizers.items():
        ours, theirs = optimizer.state_dict(), model.optimizers[name].state_dict()
        assert ours["param_groups"] == theirs["param_groups"]
        assert ours["state"].keys() == theirs["state"].keys()
        for number, values in ours["state"].items():
            assert values.keys() == theirs["state"][number].keys()
            for key, value in values.items():
                assert torch.equal(value, theirs["state"][number][key]), (name, number, key)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["position", "global_step"], -5, "position.global_step is -5"),
        (["position", "global_step"], 3, "position.global_step is 3, but must be 2, as in step-"),
        (["position", "images_seen"], 10**400, "position.images_seen is 1000"),
        (["position", "images_seen"], 1.5, "position.images_seen is 1.5"),
        (["position", "seconds"], float("nan"), "position.seconds is NaN"),
        (["position", "restores"], True, "position.restores is true"),
        (["position", "speed"], 1, "position.speed is unknown"),
        (["position"], [1], "position is a list"),
        (["about"], None, "about is null, but must be an object"),
        (["about", "config"], "x", "about.config is 'x'"),
        (["score"], "low", "score is 'low'"),
        (["metrics"], {"a": [1]}, "metrics.a is a list"),
        (["files", "generator.safetensors", "bytes"], -1, "bytes is -1"),
        (["files", "generator.safetensors", "sha256"], "x", "sha256 is 'x'"),
        (["files", "../../outside"], {}, "is no name of a file of tensors"),
        (["optimizers", "generator", "param_groups"], [], "must be a list of 1"),
        (["optimizers", "generator", "param_groups", 0, "lr"], 10**400, "lr is 1000"),
        (["optimizers", "generator", "param_groups", 0, "lr"], -1, "lr is -1, but must be"),
        (["optimizers", "generator", "param_groups", 0, "lr"], "1", "lr is '1'"),
        (["optimizers", "generator", "param_groups", 0, "betas"], [0.5], "must be 2 numbers"),
        (["optimizers", "generator", "param_groups", 0, "betas"], [0.5, 1.5], "below 1"),
        (["optimizers", "generator", "param_groups", 0, "params"], [0, 10**9], "params is"),
        (["optimizers", "generator", "param_groups", 0, "extra"], 3, "extra is unknown"),
        (["optimizers", "generator", "state"], {"99": {}}, "99 is no parameter"),
        (["optimizers", "generator", "state"], {"0": {"x": 1}}, "has other entries than"),
        (["optimizers", "painter"], {"param_groups": [], "state": {}}, "does not fit this model"),
    ],
)
def test_numbers_that_cannot_be_are_refused_with_their_place(
    place: Path, path: list[str | int], value: Any, message: str
) -> None:
    change(place, *path, to=value)
    with pytest.raises(CheckpointError) as caught:
        load(place)
    assert message in str(caught.value)
    assert "state.json: damaged (" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_entries_that_are_missing_are_named(place: Path) -> None:
    for path, message in (
        (("position", "global_step"), "position.global_step is missing"),
        (("files", "generator_ema.safetensors"), "does not list generator_ema.safetensors"),
        (("optimizers", "discriminator"), "whose optimizers are generator, discriminator"),
        (("about",), "about is missing"),
    ):
        before = (place / "state.json").read_text()
        state = json.loads(before)
        inside = state
        for step in path[:-1]:
            inside = inside[step]
        del inside[path[-1]]
        (place / "state.json").write_text(json.dumps(state))
        with pytest.raises(CheckpointError, match=message):
            load(place)
        (place / "state.json").write_text(before)
    load(place)


def test_checkpoints_of_earlier_versions_are_read(place: Path) -> None:
    state = json.loads((place / "state.json").read_text())
    del state["score"], state["metrics"], state["position"]["restores"]
    for optimizer in state["optimizers"].values():
        # As an older torch wrote it, and one that is newer than this.
        del optimizer["param_groups"][0]["decoupled_weight_decay"]
        optimizer["param_groups"][0]["faster"] = True
    (place / "state.json").write_text(json.dumps(state))
    model = load(place)
    group = model.optimizers["generator"].param_groups[0]
    assert group["decoupled_weight_decay"] is False
    assert "faster" not in group
    assert checkpoint_index.read_position(Folder.at(place)) == Position(2)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("generator", lambda t: t.pop("project.bias"), "project.bias is missing"),
        ("generator", lambda t: t.update(more=torch.zeros(2)), "'more' is unknown"),
        (
            "generator",
            lambda t: t.update({"project.bias": torch.zeros(3, 5)}),
            "project.bias is 'F32' of 3x5, not 'F32' of 512",
        ),
        (
            "generator",
            lambda t: t.update({"project.bias": t["project.bias"].double()}),
            "project.bias is 'F64' of 512, not 'F32' of 512",
        ),
        ("optimizers", lambda t: t.pop("generator/0/exp_avg"), "exp_avg is missing"),
        (
            "optimizers",
            lambda t: t.update({"generator/0/exp_avg": torch.zeros(3)}),
            "exp_avg is 'F32' of 3, not",
        ),
        ("optimizers", lambda t: t.update({"generator/99/step": torch.zeros(())}), "generator/99"),
        ("optimizers", lambda t: t.update({"a/b/c/d": torch.zeros(())}), "'a/b/c' is no parameter"),
        ("optimizers", lambda t: t["generator/0/step"].fill_(-1), "generator/0/step is -1"),
        ("optimizers", lambda t: t["generator/0/step"].fill_(torch.nan), "step is nan"),
    ],
)
def test_tensors_that_a_model_does_not_have_are_refused(
    place: Path, name: str, edit: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    replace_tensors(place, f"{name}.safetensors", edit)
    with pytest.raises(CheckpointError) as caught:
        load(place)
    assert message in str(caught.value)


def test_headers_are_checked_before_what_they_announce_takes_memory(place: Path) -> None:
    file = place / "generator.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    far = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    deep = b"[" * 100_000
    for data, message in (
        ((2**62).to_bytes(8, "little") + whole[8:], "its header has 4,611,686,018,427,387,904"),
        (whole[:8] + b"\xff" + whole[9:], "not valid JSON"),
        (len(far).to_bytes(8, "little") + far, "its header is that of 4,398,046"),
        (len(deep).to_bytes(8, "little") + deep, "levels deep"),
        (b"", "its header is that of|its header has|not valid JSON|damaged"),
    ):
        file.write_bytes(data)
        digest = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        change(place, "files", file.name, to=digest)
        with pytest.raises(CheckpointError, match=r"generator\.safetensors: damaged") as caught:
            load(place)
        assert any(part in str(caught.value) for part in message.split("|"))
    assert "project.weight" in header


@pytest.mark.parametrize(("latent_size", "width"), [(65_536, 16.0), (65_536, 0.0625), (100, 16.0)])
def test_networks_are_built_only_if_the_checkpoint_has_them(
    place: Path, latent_size: int, width: float
) -> None:
    run = place.parents[1]
    for file, inside in ((run / "config.json", None), (place / "state.json", "about")):
        values = json.loads(file.read_text())
        config = values[inside]["config"] if inside else values
        config |= {"latent_size": latent_size, "width": width}
        file.write_text(json.dumps(values))
    # Of these, the largest would have 20 billion weights.
    with pytest.raises(CheckpointError, match="generator does not fit this model"):
        raygen.load(str(run))
