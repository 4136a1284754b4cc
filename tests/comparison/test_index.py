"""The runs and sweeps of a storage: what is read of them, whole and damaged."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from contenders import EVIL
from helpers import fails, run_script
from PIL import Image
from storages import BEGAN, DATASET, confirm, encoded, picture, write_run, write_sweep

from raygen.comparison.index import MOST_HIGH, MOST_WIDE, read_index
from raygen.comparison.index_page import render_index, shell_word
from raygen.core.errors import UserError


def test_runs_and_sweeps_are_listed_with_what_they_found(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 3, fd=21.0, samples=[picture(), picture((0, 200, 0))])
    write_run(tmp_path / "b", 1)
    write_sweep(tmp_path / "s")
    (tmp_path / "notes").mkdir()
    index = read_index(str(tmp_path))
    first, second = index.runs
    assert (first.run.name, first.run.status, first.run.images_seen) == ("a", "finished", 8000)
    assert (first.dataset, first.active_at) == (DATASET, BEGAN + 3 * 3600)
    assert first.evaluation
    assert first.evaluation.metrics["random-vgg/fd"].value == 21.0
    assert second.run.metrics["quality/swd"] == 30.0
    assert (second.evaluation, second.picture, second.problem) == (None, None, "")
    [sweep] = index.sweeps
    outcome = sweep.outcome
    assert (sweep.name, sweep.preset, sweep.problem) == ("s", "dcgan-celeba", "")
    assert [trial.status for trial in outcome.trials] == ["finished"] * 3 + ["failed"]
    # A trial that failed is not the best, whatever it reported.
    assert outcome.best
    assert (outcome.best.number, outcome.best.values) == (2, {"lr_g": 0.002})
    assert outcome.found.startswith("best SWD 20")
    assert outcome.confirmation is None
    assert sweep.contenders == [str(tmp_path / "s/trials/002")]


def test_a_confirmed_sweep_stands_for_the_trainings_of_its_best_setting(tmp_path: Path) -> None:
    write_sweep(tmp_path / "s")
    confirm(tmp_path / "s", established=True)
    [sweep] = read_index(str(tmp_path)).sweeps
    confirmation = sweep.outcome.confirmation
    assert confirmation
    assert (confirmation.trial, confirmation.seeds, confirmation.established) == (1, 3, True)
    trials = tmp_path / "s/confirmation/trials"
    assert sweep.contenders == [str(trials / "001"), str(trials / "002")]


def test_a_sweep_of_a_later_version_is_compared_by_its_own_metric(tmp_path: Path) -> None:
    write_sweep(tmp_path / "s")
    saved = json.loads((tmp_path / "s/sweep.json").read_text())
    saved["sweep"] |= {"mode": "max", "option_of_tomorrow": 3}
    (tmp_path / "s/sweep.json").write_text(json.dumps(saved))
    [sweep] = read_index(str(tmp_path)).sweeps
    assert sweep.problem == ""
    assert sweep.outcome.best
    assert (sweep.outcome.best.number, sweep.outcome.best.objective) == (0, 40.0)


def test_the_storage_may_be_a_sweep_or_a_run(tmp_path: Path) -> None:
    write_sweep(tmp_path / "runs/s")
    confirm(tmp_path / "runs/s", established=False)
    alone = read_index(str(tmp_path / "runs/s"))
    assert [sweep.name for sweep in alone.sweeps] == ["s"]
    assert len(alone.runs) == 4 + 4
    assert {listed.run.sweep for listed in alone.runs} == {"s", "s/confirmation"}
    assert read_index(str(tmp_path / "runs/s/trials")).runs == alone.runs
    # A storage that holds nothing but a sweep is no sweep itself.
    assert read_index(str(tmp_path / "runs")).runs == []
    write_run(tmp_path / "run")
    [listed] = read_index(str(tmp_path / "run")).runs
    assert listed.run.name == "run"


def test_a_picture_is_small_and_shows_the_upper_rows_of_the_newest_samples(tmp_path: Path) -> None:
    write_run(tmp_path / "a", samples=[picture((0, 0, 200)), picture((0, 200, 0))])
    write_run(tmp_path / "tall", samples=[encoded(np.full((900, 20, 3), 9, np.uint8))])
    write_run(tmp_path / "tiny", samples=[encoded(np.full((2, 2, 3), 9, np.uint8))])
    shown, tall, tiny = (listed.picture for listed in read_index(str(tmp_path)).runs)
    assert shown
    assert shown.uri.startswith("data:image/webp;base64,")
    (tmp_path / "picture").write_bytes(base64.b64decode(shown.uri.split(",")[1]))
    with Image.open(tmp_path / "picture") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
        assert image.size == (shown.width, shown.height) == (160, 41)
    # All of it is of the two rows, which are green.
    assert np.abs(pixels - [0, 200, 0]).max() < 30
    for found in (tall, tiny):
        assert found
        assert 1 <= found.width <= MOST_WIDE
        assert 1 <= found.height <= MOST_HIGH


def test_when_a_run_was_last_active_its_files_say_while_it_goes_on(tmp_path: Path) -> None:
    write_run(tmp_path / "a", status="running")
    for file in (tmp_path / "a").iterdir():
        os.utime(file, (BEGAN, BEGAN))
    os.utime(tmp_path / "a/metrics.jsonl", (BEGAN + 60, BEGAN + 60))
    (tmp_path / "a/notes.txt").touch()
    [listed] = read_index(str(tmp_path)).runs
    assert (listed.run.status, listed.active_at) == ("begun", BEGAN + 60)


def test_what_is_damaged_is_listed_with_its_problem(tmp_path: Path) -> None:
    damage = {
        "config": ("config.json", "config.json: not valid JSON"),
        "evaluation": ("evaluation.json", "evaluation.json: not valid JSON"),
        "history": ("metrics.jsonl", ""),
        "picture": ("samples/samples-000000008.png", "cannot be shown (not a PNG file)"),
        "summary": ("summary.json", "summary.json: not valid JSON"),
    }
    for name, (file, _) in damage.items():
        write_run(tmp_path / name, fd=1.0, samples=[picture()])
        (tmp_path / name / file).write_bytes(b"{\n")
    for name in ("s", "t", "u"):
        write_sweep(tmp_path / name)
    (tmp_path / "s/trials/001/trial.json").write_text("{")
    (tmp_path / "t/sweep.json").write_text("{")
    (tmp_path / "u/sweep.json").unlink()
    (tmp_path / "s/trials/notes").touch()
    confirm(tmp_path / "u", established=True)
    (tmp_path / "u/confirmed.json").write_text('{"settings": []}')
    index = read_index(str(tmp_path))
    found = {listed.run.name: listed for listed in index.runs}
    for name, (_, problem) in damage.items():
        assert problem in found[name].problem
        assert bool(problem) == bool(found[name].problem)
        assert "\n" not in found[name].problem
    # What is known of them is told.
    assert found["evaluation"].picture
    assert found["picture"].evaluation
    sweeps = {sweep.name: sweep for sweep in index.sweeps}
    assert sweeps["s"].problem.startswith(f"{tmp_path}/s/trials/001/trial.json: not valid JSON")
    assert len(sweeps["s"].outcome.trials) == 3
    assert sweeps["t"].problem.startswith(f"{tmp_path}/t/sweep.json: not valid JSON")
    assert (sweeps["t"].outcome.best, len(sweeps["t"].outcome.trials)) == (None, 4)
    assert sweeps["u"].problem == f"{tmp_path}/u/sweep.json: is missing"
    assert "must be at least one setting" in sweeps["u"].outcome.problems[1]
    # Without its options, a run cannot be compared, so it cannot be chosen.
    text = render_index(index, "Runs", "compare")
    assert text.count(" disabled>") == 1 + len(("t", "u"))


def test_texts_of_strangers_are_texts(tmp_path: Path) -> None:
    write_run(tmp_path / EVIL.replace("/", "\u2215"), fd=1.0, samples=[picture()])
    write_sweep(tmp_path / "s", found=f"{EVIL} \ud800")
    write_run(tmp_path / "broken")
    (tmp_path / "broken/config.json").write_text(json.dumps({"preset": EVIL}))
    text = render_index(read_index(str(tmp_path)), f"A & B {EVIL}", f"'{EVIL}'")
    text.encode()
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\ud800" in text
    assert "http://" not in text
    assert "https://" not in text


@pytest.mark.parametrize(
    "path",
    [
        "runs/a",
        "runs/a b",
        "runs/it's",
        'runs/"$(touch x)"`touch y`;',
        "runs/\\n!*?[a]~#&|<>",
        "runs/größe",
        "runs/line\nbreak\tand\x1b[31m",
        "runs/\u202egpj",
        "runs/it's\x07",
        os.fsdecode(b"runs/\xe9\\"),
        "-x/run",
        "s3://bucket/runs/a?region=eu-central-1",
    ],
)
def test_a_shell_reads_words_as_they_were_meant(path: str) -> None:
    word = shell_word(path)
    # Not all shells know the escapes of what cannot be shown.
    shell = "bash" if word.startswith("$") else "sh"
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    word.encode("utf-8")
    done = subprocess.run([shell, "-c", f"printf %s {word}"], capture_output=True, check=True)
    expected = os.fsencode(path)
    assert done.stdout == (b"./" + expected if path.startswith("-") else expected)


def test_the_job_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs/a")
    out = tmp_path / "out"
    assert run_script("compare", "--storage", tmp_path / "runs", "--out", out) == 0
    assert f"1 run, 0 sweeps: {out}/index.html" in capsys.readouterr().out
    text = (out / "index.html").read_text()
    assert f"<title>Runs in {tmp_path}/runs</title>" in text
    assert f"{tmp_path}/runs/a" in text
    assert os.listdir(out) == ["index.html"]


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs/a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    out = ("--out", tmp_path / "out")
    line = fails(capsys, "compare", "runs/a", "--storage", tmp_path / "runs", *out)
    assert "lists all runs; name no RUN (runs/a) beside it" in line
    line = fails(capsys, "compare", "--suite", "anime", "--storage", tmp_path / "runs", *out)
    assert "lists all runs; name no --suite (anime) beside it" in line
    for name, problem in (
        ("nowhere", "does not exist; name the folder or URI"),
        ("empty", "holds no runs and no sweeps; name the folder or URI"),
        ("file", "is a file; name a folder"),
    ):
        assert problem in fails(capsys, "compare", "--storage", tmp_path / name, *out)
    assert not (tmp_path / "out").exists()


def test_the_index_loads_no_torch_and_no_ray(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", samples=[picture()])
    write_sweep(tmp_path / "runs/s")
    code = (
        "import sys\n"
        "from raygen.comparison.options import CompareOptions\n"
        "from raygen.jobs.index import index\n"
        "index(CompareOptions(storage=sys.argv[1], out=sys.argv[2]))\n"
        "assert not {'torch', 'ray', 'tensorboard', 'matplotlib'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "runs"), str(tmp_path / "out")]
    subprocess.run(command, check=True)
    assert (tmp_path / "out/index.html").exists()


def test_storages_in_object_stores_are_listed(tmp_path: Path, s3_server: str) -> None:
    from pyarrow import fs

    write_run(tmp_path / "runs/a", 2, fd=3.0, samples=[picture()])
    write_sweep(tmp_path / "runs/s")
    confirm(tmp_path / "runs/s", established=True)
    uri = f"s3://bucket/index?{s3_server}"
    filesystem, path = fs.FileSystem.from_uri(uri)
    fs.copy_files(str(tmp_path / "runs"), path, destination_filesystem=filesystem)
    local, there = read_index(str(tmp_path / "runs")), read_index(uri)
    [before], [after] = local.runs, there.runs
    assert after.run.uri == f"s3://bucket/index/a?{s3_server}"
    assert (after.picture, after.evaluation) == (before.picture, before.evaluation)
    assert (after.active_at, after.problem) == (before.active_at, "")
    assert [len(sweep.contenders) for sweep in there.sweeps] == [2]
    with pytest.raises(UserError, match="holds no runs|does not exist"):
        read_index(f"s3://bucket/nothing?{s3_server}")
