"""A run's folder: opened, resumed, refused, restarted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import save_checkpoint, tiny_config

import raygen
from raygen.core import marker
from raygen.core.errors import UserError
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.models import build_model
from raygen.training.run import RunFolder


def open_run(path: Path) -> RunFolder:
    run = RunFolder.at(str(path), "run")
    run.open(tiny_config(), restart=False)
    return run


def save_step_2(run: RunFolder, **options: Any) -> None:
    model = build_model(tiny_config(**options))
    save_checkpoint(run.checkpoints, model, Position(2, 16, 1.0), {"dataset": "abc"}, 3)


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
    save_step_2(run)
    longer = replace(tiny_config(), steps=50, num_workers="1", keep=7)
    run.open(longer, restart=False)
    assert json.loads((tmp_path / "run/config.json").read_text())["steps"] == 50
    for name, value in (("lr_d", 0.5), ("batch_size", 16), ("seed", 3), ("width", 0.5)):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}: the run in"):
            run.open(tiny_config(**{name: value}), restart=False)


def test_the_length_of_a_two_phase_run_stays_as_it_was(tmp_path: Path) -> None:
    run = RunFolder.at(str(tmp_path), "run")
    config = tiny_config(schedule="two-phase")
    run.open(config, restart=False)
    save_step_2(run)
    run.open(replace(config, keep=7), restart=False)
    with pytest.raises(UserError, match="--steps 50: the run in"):
        run.open(replace(config, steps=50), restart=False)


def entries(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_restart_deletes_a_run_but_nothing_else(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    save_step_2(run)
    (tmp_path / "run/samples").mkdir()
    for name in ("events.out.tfevents.1.host", "metrics.jsonl", "summary.json"):
        (tmp_path / "run" / name).touch()
    (tmp_path / "run/notes.txt").write_text("the user's own")
    run.open(tiny_config(seed=3), restart=True)
    assert entries(tmp_path / "run") == ["config.json", "notes.txt", "raygen.json"]


FOREIGN = {
    "thesis": {"chapter1.tex": "It was a dark night."},
    "bert": {"config.json": '{"architectures": ["BertModel"], "hidden_size": 768}'},
    "list": {"config.json": "[1, 2]"},
    "broken": {"config.json": "{"},
    "short": {"config.json": '{"preset": "dcgan-celeba"}'},
    "other marker": {"raygen.json": '{"name": "something else"}', "config.json": "{}"},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_raygen_did_not_make_is_never_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    for file, text in FOREIGN[name].items():
        (tmp_path / "run" / file).write_text(text)
    for restart in (True, False):
        with pytest.raises(UserError, match="holds no run of raygen's .* choose another name"):
            RunFolder.at(str(tmp_path), "run").open(tiny_config(), restart)
    assert {f: (tmp_path / "run" / f).read_text() for f in FOREIGN[name]} == FOREIGN[name]
    assert entries(tmp_path / "run") == sorted(FOREIGN[name])


@pytest.mark.parametrize("kind", ["sweep", "dataset"])
def test_a_sweep_or_dataset_is_no_run(tmp_path: Path, kind: Any) -> None:
    marker.write(Folder.at(tmp_path / "run"), kind)
    for restart in (True, False):
        with pytest.raises(UserError, match=f"holds a {kind}; choose another name"):
            RunFolder.at(str(tmp_path), "run").open(tiny_config(), restart)


def test_runs_of_earlier_versions_go_on_and_can_be_started_over(tmp_path: Path) -> None:
    for restart in (True, False):
        run = open_run(tmp_path)
        save_step_2(run)
        (tmp_path / "run/raygen.json").unlink()
        run.open(tiny_config(), restart)
        assert (tmp_path / "run/raygen.json").exists()
        assert bool(run.latest_checkpoint()) is not restart


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("cut_at", range(1, 6))
def test_a_deletion_that_is_cut_off_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_at: int, restart: bool
) -> None:
    run = open_run(tmp_path)
    save_step_2(run)
    for name in ("samples", "projector"):
        (tmp_path / "run" / name).mkdir()
    (tmp_path / "run/events.out.tfevents.1.host").touch()
    calls = [0]

    def remove(self: Folder, name: str) -> None:
        calls[0] += 1
        if calls[0] == cut_at:
            raise KeyboardInterrupt
        original(self, name)

    original = Folder.remove
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", remove)
        with pytest.raises(KeyboardInterrupt):
            run.open(tiny_config(seed=3), restart=True)
    # With other options: what is left of the old run does not count any more.
    run.open(tiny_config(seed=4), restart)
    assert entries(tmp_path / "run") == ["config.json", "raygen.json"]
    assert run.position() == Position()


def test_what_killed_jobs_left_is_cleaned_away_when_the_run_goes_on(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    save_step_2(run)
    (tmp_path / "run/checkpoints/step-00000007").mkdir()
    run.open(tiny_config(), restart=False)
    assert entries(tmp_path / "run/checkpoints") == ["step-00000002"]


def test_the_dataset_must_stay_the_same(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    run.check_dataset("faces", "abc")
    save_step_2(run)
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


def rewrite(path: Path, **changes: Any) -> None:
    """Change what a run's config.json says; None takes an entry out."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def test_a_run_whose_preset_has_another_name_by_now_is_loaded_and_goes_on(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    save_step_2(run)
    config = tmp_path / "run/config.json"
    rewrite(config, preset="dcgan-of-old")
    assert raygen.load(str(tmp_path / "run")).config.preset == "dcgan-of-old"
    run.open(tiny_config(), restart=False)
    assert json.loads(config.read_text())["preset"] == "dcgan-celeba"
    rewrite(config, preset="dcgan-of-old")
    with pytest.raises(UserError, match="--width 0.5: the run in .* has 0.125"):
        run.open(tiny_config(width=0.5), restart=False)


def test_a_run_of_a_version_that_noted_no_family_and_size(tmp_path: Path) -> None:
    run = open_run(tmp_path)
    save_step_2(run)
    added = ("family", "size", "crop", "own_epochs", "own_steps", "own_two_phase_steps")
    rewrite(tmp_path / "run/config.json", **dict.fromkeys(added))
    assert raygen.load(str(tmp_path / "run")).image_size == (32, 32)
    with pytest.raises(UserError, match="--size 64x64: the run in .* has 32x32"):
        run.open(tiny_config(size="64"), restart=False)
    run.open(tiny_config(), restart=False)


OLDER = {"beta1": 0.5, "schedule": "1:1", "lr_g": 1e-4, "lr_d": 1e-3}
"""What the config.json of an older run says, whatever its loss."""


@pytest.mark.parametrize("loss", ["non-saturating", "wasserstein-gp"])
def test_a_run_from_before_losses_had_defaults_goes_on_with_its_own(
    tmp_path: Path, loss: str
) -> None:
    run, config = open_run(tmp_path), tiny_config(adversarial_loss=loss)
    save_step_2(run, adversarial_loss=loss)
    rewrite(tmp_path / "run/config.json", adversarial_loss=loss, **OLDER, beta2=None, own_lr_d=None)
    loaded = raygen.load(str(tmp_path / "run")).config.explicit.to_json()
    same = run.resumed(config, restart=False)
    for values in (loaded, same.to_json()):
        assert {name: values[name] for name in (*OLDER, "beta2")} == OLDER | {"beta2": 0.999}
    # Other values are refused, those from before `beta2` too.
    for name, value in (("beta2", 0.5), ("beta1", 0.0), ("schedule", "5:1"), ("lr_d", 0.5)):
        other = config.updated({name: value}, "test")
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}: the run in"):
            run.open(run.resumed(other, restart=False), restart=False)
    assert run.resumed(config, restart=True) == config
    run.open(same, restart=False)
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert {name: saved[name] for name in (*OLDER, "beta2")} == OLDER | {"beta2": 0.999}


def test_a_run_notes_the_defaults_that_it_was_trained_with(tmp_path: Path) -> None:
    run = RunFolder.at(str(tmp_path), "run")
    config = tiny_config(adversarial_loss="wasserstein-gp")
    assert run.resumed(config, restart=False) == config
    run.open(config, restart=False)
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert (saved["schedule"], saved["beta1"], saved["beta2"]) == ("5:1", 0.0, 0.9)
    assert (saved["lr_g"], saved["lr_d"]) == (1e-4, 1e-4)
    save_step_2(run)
    assert run.resumed(config, restart=False) == config.explicit
    run.open(config, restart=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "flow:Flow"}, "family 'flow:Flow' is not installed; known are dcgan:DCGAN"),
        ({"family": ["dcgan"]}, "family .* is not installed"),
        ({"family": "os:system", "preset": "unknown"}, "family 'os:system' is not installed"),
        ({"size": "48x48"}, "--size 48x48: must be one of 32, 64, 128"),
        ({"size": 64}, "size is 64, but must be a text"),
        ({"preset": "unknown", "family": None}, "preset is 'unknown', but must be one of"),
    ],
)
def test_a_run_that_cannot_be_built_says_why(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    save_step_2(open_run(tmp_path))
    rewrite(tmp_path / "run/config.json", **changes)
    with pytest.raises(UserError, match=message) as error:
        raygen.load(str(tmp_path / "run"))
    assert len(str(error.value).splitlines()) == 1
