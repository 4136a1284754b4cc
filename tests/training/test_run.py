"""A run's folder: opened, resumed, refused, restarted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import tiny_config

from raygen.errors import UserError
from raygen.models import build_model
from raygen.training import checkpoint
from raygen.training.control import Position
from raygen.training.run import RunFolder


def open_run(path: Path) -> RunFolder:
    run = RunFolder.at(str(path), "run")
    run.open(tiny_config(), restart=False)
    return run


def save_checkpoint(run: RunFolder) -> None:
    model = build_model(tiny_config())
    checkpoint.save(run.checkpoints, model, Position(2, 16, 1.0), {"dataset": "abc"}, 3)


def test_a_new_run_notes_its_options(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    values = json.loads((tmp_path / "run/config.json").read_text())
    assert values["preset"] == "dcgan-celeba"
    assert values["lr_d"] == 1e-3
    assert run.position() == Position()
    assert run.latest_checkpoint() is None


def test_a_run_is_resumed_with_the_options_that_made_it(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.open(tiny_config(batch_size=24), restart=False)
    run.open(tiny_config(), restart=False)
    save_checkpoint(run)
    longer = replace(tiny_config(), steps=50, num_workers=1, keep=7)
    run.open(longer, restart=False)
    assert json.loads((tmp_path / "run/config.json").read_text())["steps"] == 50
    for name, value in (("lr_d", 0.5), ("batch_size", 16), ("seed", 3), ("width", 0.5)):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}: the run in"):
            run.open(tiny_config(**{name: value}), restart=False)


def test_the_length_of_a_two_phase_run_stays_as_it_was(tmp_path: Path) -> None:
    run = RunFolder.at(str(tmp_path), "run")
    config = tiny_config(schedule="two-phase")
    run.open(config, restart=False)
    save_checkpoint(run)
    run.open(replace(config, keep=7), restart=False)
    with pytest.raises(UserError, match="--steps 50: the run in"):
        run.open(replace(config, steps=50), restart=False)


def test_restart_deletes_a_run_but_nothing_else(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    (tmp_path / "run/samples").mkdir()
    run.open(tiny_config(seed=3), restart=True)
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["config.json"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("It was a dark night.")
    for restart in (True, False):
        with pytest.raises(UserError, match="choose another"):
            RunFolder.at(str(tmp_path), "thesis").open(tiny_config(), restart)
    assert (tmp_path / "thesis/chapter1.tex").exists()


def test_the_dataset_must_stay_the_same(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.check_dataset("faces", "abc")
    save_checkpoint(run)
    assert run.position().global_step == 2
    run.check_dataset("moved/faces", "abc")
    with pytest.raises(UserError, match="--data faces: is not the dataset"):
        run.check_dataset("faces", "def")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b"])
def test_names_that_are_no_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--run-name"):
        RunFolder.at(str(tmp_path), name)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        RunFolder.at(str(tmp_path / "file"), "run").open(tiny_config(), restart=False)
