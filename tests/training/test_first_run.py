"""The run that chooses its own size and length: when, how, and that it is gone on with."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import run_script, save_run

from raygen import models
from raygen.cli import named_options
from raygen.config.run import PRESETS, RunConfig
from raygen.core.storage import Folder
from raygen.training import first_run
from raygen.training.run import RunFolder

CONFIG = PRESETS["dcgan-celeba"]


def test_it_is_only_where_size_and_length_are_left_open(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text('{"width": 0.5}')
    named = named_options(["dcgan-celeba", "--batch-size=16", "--drawn_count", "40"])
    assert named == {"batch_size", "drawn_count"}
    assert named_options(["--config", str(file)]) == {"config", "width"}

    assert first_run.may_be_first(CONFIG, frozenset({"seed", "batch_size"}))
    for name in ("width", "drawn_count"):
        assert not first_run.may_be_first(CONFIG, frozenset({name}))
    assert not first_run.may_be_first(replace(CONFIG, data="data/celeba"), frozenset())
    assert not first_run.may_be_first(PRESETS["vaegan-anime"], frozenset())


@pytest.mark.parametrize(("seconds", "steps"), [(1e-3, 2_000), (0.1, 850), (60.0, 600)])
def test_its_length_follows_from_the_machine(
    monkeypatch: pytest.MonkeyPatch, seconds: float, steps: int
) -> None:
    monkeypatch.setattr(first_run, "seconds_per_step", lambda config: seconds)
    chosen = first_run.fitting(CONFIG, frozenset(), use_gpu=False)
    assert (chosen.width, chosen.drawn_count, chosen.steps) == (0.25, 2_000, steps)
    assert chosen.total_steps(1_600) == steps
    assert (chosen.batch_size, chosen.validate_images) == (64, steps * 64 // 4)
    given = replace(CONFIG, batch_size=16, validate_images=5)
    named = frozenset({"batch_size", "validate_images"})
    kept = first_run.fitting(given, named, use_gpu=False)
    assert (kept.batch_size, kept.validate_images, kept.steps) == (16, 5, steps)
    with_gpu = first_run.fitting(CONFIG, frozenset(), use_gpu=True)
    assert (with_gpu.width, with_gpu.steps) == (1.0, 2_500)
    for config in (chosen, with_gpu):
        changed = {"steps", *first_run.SMALL, "validate_images"}
        assert {k for k, v in config.to_json().items() if CONFIG.to_json()[k] != v} <= changed


def test_steps_are_timed_without_what_the_first_one_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Model:
        bf16 = False
        image_shape = (3, 32, 32)

        def to(self, device: Any) -> None:
            pass

        def update(self, images: Any, step: Any) -> None:
            now[0] += 0.25 if step.number else 30.0

    monkeypatch.setattr(models, "build_model", lambda config: Model())
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assert first_run.seconds_per_step(CONFIG) == pytest.approx(0.25)


def test_a_run_is_gone_on_with_as_it_was_begun(tmp_path: Path) -> None:
    run = RunFolder(Folder.at(tmp_path / "run"))
    assert first_run.as_begun(CONFIG, frozenset(), run) is None
    save_run(tmp_path / "run", "dcgan-celeba", steps=3, drawn_count=40, validate_images=16)
    saved = json.loads((tmp_path / "run/config.json").read_text())

    def gone_on(*named: str, **values: Any) -> RunConfig:
        config = first_run.as_begun(replace(CONFIG, **values), frozenset(named), run)
        assert config
        return config

    same = gone_on()
    assert (same.width, same.drawn_count, same.validate_images) == (saved["width"], 40, 16)
    assert (same.steps, same.batch_size) == (saved["steps"], saved["batch_size"])
    assert gone_on("steps", steps=9).steps == 9
    longer = gone_on("epochs", epochs=20.0)
    assert (longer.steps, longer.epochs, longer.width) == (0, 20.0, saved["width"])
    assert gone_on("validate_images", validate_images=7).validate_images == 7
    assert gone_on("batch_size", batch_size=7).batch_size == 7
    save_run(tmp_path / "other", "dcgan-celeba", data="data/celeba")
    other = RunFolder(Folder.at(tmp_path / "other"))
    assert first_run.as_begun(CONFIG, frozenset(), other) is None


@pytest.mark.slow
def test_the_first_command_trains_and_the_next_ones_go_on(
    ray_session: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fitting(config: RunConfig, named: frozenset[str], use_gpu: bool) -> RunConfig:
        return replace(config, width=0.125, drawn_count=60, steps=3)

    monkeypatch.setattr(first_run, "fitting", fitting)
    there = ("--batch-size", "16", "--storage", tmp_path)
    assert run_script("train", *there) == 0
    output = capsys.readouterr().out
    assert "first run: a quarter of the model's width, 60 faces, 3 steps" in output
    assert f"jobs/train.py --batch-size 16 --storage {tmp_path} --steps 15\n" in output
    config = json.loads((tmp_path / "dcgan-celeba/config.json").read_text())
    assert (config["width"], config["drawn_count"], config["steps"]) == (0.125, 60, 3)

    assert run_script("train", *there) == 0
    assert "this run is complete at step 3" in capsys.readouterr().out
    assert run_script("train", *there, "--steps", "5") == 0
    output = capsys.readouterr().out
    assert "resuming" in output
    assert "first run" not in output
    assert run_script("train", *there, "--epochs", "2", "--restart", "--drawn-count", "60") == 0
    output = capsys.readouterr().out
    assert "dcgan-celeba: 6 steps of 16 images" in output
    config = json.loads((tmp_path / "dcgan-celeba/config.json").read_text())
    assert (config["width"], config["steps"]) == (1.0, 0)
    assert "step-00000005" not in os.listdir(tmp_path / "dcgan-celeba/checkpoints")
