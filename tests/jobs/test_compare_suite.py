"""Suites: contenders that are trained, or tuned and trained, and compared, as one job."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import fails, run_script, tiny_config, write_dataset
from PIL import Image

import raygen
from raygen.cli import command_line
from raygen.comparison.options import CompareOptions
from raygen.comparison.suite import Member
from raygen.core.errors import Interrupted
from raygen.core.storage import Folder
from raygen.jobs import suite as suite_job
from raygen.jobs.suite import Planned, Suite, busy_seconds
from raygen.jobs.tune import tune
from raygen.tuning.records import Report, Trial

IMAGES = 60
SMALL = ("--width", "0.03", "--batch-size", "4", "--precision", "fp32", "--samples", "50")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The same images in two sizes, as far as a suite can tell."""
    for size in (32, 64):
        folder = tmp_path / f"data/{size}x{size}"
        write_dataset(folder, [30, 30], [IMAGES], size, test=[IMAGES])
    return tmp_path / "data"


def write(tmp_path: Path, *members: dict[str, Any]) -> Path:
    published = [{"name": "of others", "source": "a book", "figures": {"swd/published": 1.25}}]
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"contenders": members, "published": published}))
    return file


def member(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "preset": "dcgan-celeba", "options": options}


def begun(out: Path) -> dict[str, int]:
    """When each training wrote its options."""
    return {str(f): f.stat().st_mtime_ns for f in out.glob("runs/**/trials/*/config.json")}


@pytest.mark.slow
def test_contenders_of_several_sizes_are_trained_and_compared_and_some_may_fail(
    ray_session: str, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        tmp_path,
        member("small"),
        member("large", size="64"),
        member("broken <b>", lr_g=1e30, lr_d=1e30),
    )
    suite = file.read_text()
    out = tmp_path / "out"
    words = ("--suite", file, "--data", data, "--images", "48", "--seeds", "2", "--out", out)
    assert run_script("compare", *words, *SMALL, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "3 contenders, trained with 2 seeds, 48 images a training" in said
    assert "  large: 2 trainings of 12 steps of 4 images, about " in said
    assert not out.exists()

    assert run_script("compare", *words, *SMALL) == 0
    said = capsys.readouterr().out
    assert "contender 3 of 3: broken <b>" in said
    assert "broken <b> failed: " in said
    assert "this is not confirmed" not in said
    text = (out / "index.html").read_text()
    for shown in (
        "The images of large have 64x64 pixels; before they are compared, they are reduced",
        *("broken &lt;b&gt;: ", "of others", "a book", "1.25", f"--suite {file}"),
    ):
        assert shown in text, shown
    assert "broken <b>" not in text
    values = json.loads((out / "comparison.json").read_text())
    assert [c["name"] for c in values["contenders"]] == ["small", "large", "broken <b>"]
    assert [[run["seed"] for run in c["runs"]] for c in values["contenders"][:2]] == [[0, 1]] * 2
    found = values["metrics"]["random-vgg/fd"]["values"]
    assert [len(seeds) for seeds in found] == [2, 2, 0]
    # Figures on images of another size stand apart from those on the model's own.
    runs = [Path(run["run"]) for run in values["contenders"][1]["runs"]]
    assert all((run / "evaluation-32x32.json").exists() for run in runs)
    assert not any((run / "evaluation.json").exists() for run in runs)

    # The same command tries what failed again, and nothing else.
    before = begun(out)
    assert run_script("compare", *words, *SMALL) == 0
    said = capsys.readouterr().out
    assert "small: 2 trainings of 12 steps of 4 images, about " in said
    assert said.count("contender ") == 1
    assert "measuring" not in said
    assert {f: t for f, t in begun(out).items() if "/broken" not in f} == {
        f: t for f, t in before.items() if "/broken" not in f
    }
    write(tmp_path, member("small"))
    assert "was begun with other contenders" in fails(capsys, "compare", *words, *SMALL)
    file.write_text(suite)
    assert "was begun with seeds 2, not 3" in fails(
        capsys, "compare", *words[:-4], "--seeds", "3", "--out", out, *SMALL
    )


@pytest.mark.slow
def test_tuned_contenders_are_trained_with_new_seeds_and_go_on_where_they_were_interrupted(
    ray_session: str,
    tmp_path: Path,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = write(tmp_path, member("first"), member("second", lr_g=1e-3))
    out = tmp_path / "out"
    words = (
        *("--suite", file, "--data", data / "32x32", "--images", "36", "--seeds", "2", "--tune"),
        *("--budget", "20s", "--out", out, *SMALL),
    )
    tuned: list[str] = []

    def interrupted(command: Any, *arguments: Any, **options: Any) -> Any:
        tuned.append(command.job.run_name)
        if len(tuned) == 2:
            raise Interrupted("interrupted")
        return tune(command, *arguments, **options)

    monkeypatch.setattr(suite_job, "tune", interrupted)
    assert run_script("compare", *words) == 130
    said = capsys.readouterr().out
    assert "a search of " in said
    again = said.split("to go on: ")[1].split("\n")[0]
    assert again.startswith(command_line("jobs/compare.py", "--suite", str(file)))
    for part in (f"--suite {file}", f"--data {data}/32x32", "--tune", f"--out {out}", *SMALL):
        assert str(part) in again
    assert json.loads((out / "suite.json").read_text())["ended"] == ["first"]
    before = begun(out)
    assert before

    assert run_script("compare", *words) == 0
    assert tuned == ["first", "second", "second"]
    assert begun(out).items() >= before.items()
    values = json.loads((out / "comparison.json").read_text())
    names = [c["name"] for c in values["contenders"]]
    assert set(names) >= {"first (defaults)", "second (defaults)"}
    assert set(names) <= {f"{n} ({k})" for n in ("first", "second") for k in ("defaults", "tuned")}
    for contender in values["contenders"]:
        assert len(contender["runs"]) == 2
        for run in contender["runs"]:
            assert "/confirmation/trials/" in run["run"]
            # No trial of the search had these seeds.
            assert run["seed"] > 0
    planned: dict[str, Any] = {
        "images": 36,
        "batch_size": 4,
        "width": 0.03,
        "seeds": 1,
        "out": str(tmp_path / "other"),
    }
    assert raygen.compare(suite=str(file), quiet=True, dry_run=True, **planned) is None
    if len(names) > 2:
        assert "expected best FD (random-vgg) against trials" in (out / "index.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--suite", "nope"), "neither a file nor one of anime, celeba"),
        (("--suite", "anime", "run"), "name no runs"),
        (("--suite", "anime", "--num-workers", "2"), "trials of sweeps, which decide it"),
        (("--tune",), "--tune: is for a suite"),
        (("--cluster-may-grow-to", "2x8CPU"), "--cluster-may-grow-to: is for a suite"),
        (("--suite", "anime", "--cluster-may-grow-to", "2"), "--cluster-may-grow-to 2: must be"),
        (("--suite", "anime", "--steps", "4"), "see --images"),
        (
            ("--suite", "anime", "--bogus", "4"),
            "contender DCGAN 1:1: Unrecognized options: --bogus",
        ),
        (("--suite", "anime", "--width", "-1"), "contender DCGAN 1:1: --width -1"),
        (("--suite", "anime", "--trials", "4"), "Unrecognized options: --trials"),
        (("--suite", "anime", "--budget", "soon"), "--budget soon"),
        (("--suite", "anime", "--data", "nowhere"), "holds no images of 64x64"),
        (("--suite", "anime", "vae-celeba"), "name no runs"),
        (("--suite", "anime", "--seeds", "0"), "--seeds 0"),
        (("--suite", "anime", "--drawn-count", "400"), "for 50 test images, not 40"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, "compare", *words)
    assert not list(tmp_path.iterdir())


def test_contenders_sweeps_plan_with_the_machines_that_the_suite_does(tmp_path: Path) -> None:
    options = CompareOptions(suite="own.json", cluster_may_grow_to="2x8CPU+1GPU")
    planned = Planned(Member("first", "dcgan-celeba"), tiny_config(), 2, 3, 1.0)
    suite = Suite([planned], 8, 0.0, 1)
    command = suite_job._command(planned, suite, options, Folder.at(tmp_path))
    assert command.job.machines == [{"CPU": 8, "GPU": 1}] * 2


def test_time_in_which_trials_overlap_counts_once() -> None:
    def trial(*reports: tuple[float, float]) -> Trial:
        made = [Report(k + 1, 0.0, seconds, at, {}) for k, (seconds, at) in enumerate(reports)]
        return Trial(0, {}, reports=made)

    assert busy_seconds([]) == 0
    # From 100 to 110 and, after a break, from 150 to 160.
    assert busy_seconds([trial((10, 110), (20, 160))]) == 20
    assert busy_seconds([trial((10, 110), (20, 160)), trial((10, 115), (12, 155))]) == 25


def test_what_could_not_be_compared_is_not_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path
) -> None:
    words = ("--out", tmp_path / "out", *SMALL)

    def refusal(*members: dict[str, Any], places: Sequence[Path] = (data,), tune: bool) -> str:
        named = [word for place in places for word in ("--data", place)]
        tuned = ["--tune"] if tune else []
        file = write(tmp_path, *members)
        return fails(capsys, "compare", "--suite", file, *named, *tuned, *words)

    both = member("small"), member("large", size="64")
    write_dataset(tmp_path / "others", [30], [IMAGES], 64, test=[IMAGES])
    line = refusal(*both, places=(data / "32x32", tmp_path / "others"), tune=False)
    assert "large: was trained on" in line
    assert "not prepared from the same files" in line
    write_dataset(tmp_path / "few", [30], [9], 32, test=[8])
    line = refusal(member("small"), places=(tmp_path / "few",), tune=False)
    assert "contender small: " in line
    assert "has 8 test images, but 50" in line
    wrong = member("small") | {"set": ["nonsense=choice(1,2)"]}
    assert "contender small: --set nonsense" in refusal(wrong, tune=True)
    wrong = member("small", data="elsewhere")
    assert "contender small: " in (line := refusal(wrong, tune=False))
    assert "data: a suite's data is named by --data" in line
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (32, 32)).save(photos / "1.png")
    assert "are not prepared" in refusal(member("small"), places=(photos,), tune=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_budget_too_small_for_one_training_is_refused(
    ray_session: str, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, member("only"))
    words = ("--suite", file, "--data", data, "--budget", "11s", "--out", tmp_path / "out")
    line = fails(capsys, "compare", *words, *SMALL, "--seeds", "100")
    assert "--budget 11s: leaves 0 images for each of 100 trainings of only" in line
    assert not (tmp_path / "out").exists()
