"""Command lines: presets, files of options, and mistakes."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from raygen.cli import TrainCommand, command_line, parse_options, parse_run, run_job, watch_command
from raygen.config.families import DCGANConfig
from raygen.core.errors import Interrupted, UserError
from raygen.core.storage import Folder
from raygen.data.options import FolderOptions


def parse(*argv: str) -> tuple[str, int, float, str]:
    command = parse_run(TrainCommand, argv, "Train.")
    model = command.run.model.explicit
    assert isinstance(model, DCGANConfig)
    return (
        command.run.preset,
        command.run.steps,
        model.lr_d,
        command.job.run_name,
    )


def test_options_come_from_the_preset_the_file_and_the_line_in_that_order(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"steps": 7, "lr_d": 0.5}))
    assert parse() == ("dcgan-celeba", 0, 1e-3, "dcgan-celeba")
    assert parse("--config", str(file)) == ("dcgan-celeba", 7, 0.5, "dcgan-celeba")
    assert parse(f"--config={file}", "--steps", "9") == ("dcgan-celeba", 9, 0.5, "dcgan-celeba")
    assert parse("dcgan-celeba", "--run-name", "mine")[3] == "mine"


def test_a_runs_own_config_can_be_used_again(tmp_path: Path) -> None:
    command = parse_run(TrainCommand, ["--lr-g", "0.3", "--steps", "5"], "Train.")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(command.run.to_json()))
    assert parse_run(TrainCommand, ["--config", str(file)], "Train.").run == command.run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must hold one JSON object"),
        ('{"stepz": 3}', "unknown option 'stepz'"),
        ('{"steps": "3"}', "steps is '3', but must be a whole number"),
        ('{"steps": true}', "steps is true, but must be a whole number"),
        ('{"precision": "fp8"}', "--precision fp8: must be one of auto, fp32, bf16"),
        ('{"preset": "pix2pix"}', "preset 'pix2pix': unknown"),
    ],
)
def test_a_wrong_file_of_options_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "options.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        parse("--config", str(file))


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        parse_run(TrainCommand, ["--help"], "Train a model.")
    assert exit.value.code == 0
    text = capsys.readouterr().out
    command = parse_run(TrainCommand, [], "Train.")
    hidden = {"family", "own_epochs", "own_steps", "own_two_phase_steps", "own_lr_d"}
    names = {*command.run.to_json(), *vars(command.job)} - hidden
    for name in names:
        assert ("PRESET" if name == "preset" else "--" + name.replace("_", "-")) in text


def test_commands_to_paste_go_through_uv_where_the_job_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV", raising=False)
    assert watch_command(Folder.at("my runs")) == "python jobs/watch.py --storage 'my runs'"
    assert command_line("jobs/train.py", "--steps", "3") == "python jobs/train.py --steps 3"
    monkeypatch.setenv("UV", "/usr/bin/uv")
    assert command_line("jobs/train.py") == "uv run jobs/train.py"
    assert watch_command(Folder.at("runs")) == "uv run jobs/watch.py"
    bucket = watch_command(Folder.at("s3://bucket/runs?region=us-east-1"))
    assert bucket == "uv run jobs/watch.py --storage 's3://bucket/runs?region=us-east-1'"


def test_outcomes_become_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def job(error: BaseException | None) -> int:
        def main(argv: Sequence[str]) -> None:
            if error:
                raise error

        return run_job(main)

    assert job(None) == 0
    assert job(UserError("--steps 0:\n  too few")) == 2
    assert capsys.readouterr().err == "error: --steps 0: too few\n"
    assert job(Interrupted("saved at step 3")) == 130
    assert capsys.readouterr().out == "saved at step 3\n"
    assert job(KeyboardInterrupt()) == 130
    with pytest.raises(ZeroDivisionError):
        job(ZeroDivisionError())


def test_an_option_that_is_repeated_replaces_its_default_and_the_files(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"size": ["16", "24"]}')

    def sizes(*arguments: str) -> tuple[str, ...]:
        return parse_options(FolderOptions, arguments, "").size

    assert sizes() == ("64",)
    assert sizes("--size", "32") == ("32",)
    assert sizes("--size", "32", "--size=218x178") == ("32", "218x178")
    assert sizes("--config", str(config)) == ("16", "24")
    assert sizes("--config", str(config), "--size", "32") == ("32",)
    config.write_text('{"keep_attributes": ["cat"]}')
    # tyro takes underscores for hyphens.
    for name in ("--keep-attributes", "--keep_attributes"):
        arguments = ("--labels", "--config", str(config), name, "dog")
        assert parse_options(FolderOptions, arguments, "").keep_attributes == ("dog",)


def test_a_message_is_not_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(
        UserError, match="invalid choice 'fp8' for argument '--precision'. Expected"
    ):
        parse("--precision", "fp8")
    assert os.environ["COLUMNS"] == "40"


def test_names_are_escaped_in_whatever_a_job_prints() -> None:
    code = (
        "import sys; from raygen.cli import run_job\n"
        "from raygen.core.errors import UserError, RunError\n"
        "def main(argv):\n"
        "    print('\u732b')\n"
        "    raise {error}('\u732b\\x1b[31m.jpg cannot be read\\nname another')\n"
        "sys.exit(run_job(main))"
    )
    for error, code_of_exit, lines in (
        ("UserError", 2, ["error: \\u732b\\x1b[31m.jpg cannot be read name another"]),
        ("RunError", 1, ["error: \\u732b\\x1b[31m.jpg cannot be read", "name another"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("{error}", error)],
            cwd=Path(__file__).parents[1],
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code_of_exit, done.stderr
        assert done.stdout == "\\u732b\n"
        assert done.stderr.splitlines() == lines
