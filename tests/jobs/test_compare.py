"""Comparisons of runs: the page, its figures, and what is refused."""

import json
from pathlib import Path

import pytest
from helpers import fails, run_script, save_run, write_dataset

import raygen
from raygen.core.storage import Folder
from raygen.evaluation.record import Evaluation

IMAGES = 70


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", [60, 60], [IMAGES], 64, attributes=2, test=[IMAGES])
    return tmp_path / "data"


@pytest.mark.slow
def test_runs_are_measured_once_and_compared_on_a_page(
    ray_session: str, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / f"runs/{name}" for name in ("gan-0", "gan-1", "vaegan", "empty")]
    for run, preset, seed in (
        (runs[0], "dcgan-anime", 0),
        (runs[1], "dcgan-anime", 1),
        (runs[2], "vaegan-anime", 0),
        (runs[3], "vaegan-anime", 1),
    ):
        save_run(run, preset, data=str(data), seed=seed)
    for saved in (runs[3] / "checkpoints").iterdir():
        (saved / "state.json").unlink()
    # One was measured before.
    assert run_script("evaluate", runs[0], "--samples", "64") == 0
    before = (runs[0] / "evaluation.json").read_bytes()
    capsys.readouterr()
    out = tmp_path / "page"
    words = (*runs, "--samples", "64", "--out", out, "--title", "GANs", "--price", "2")
    arguments = [str(word) for word in words]
    assert run_script("compare", *arguments) == 0
    output = capsys.readouterr().out
    assert "measuring 2 of 3 runs" in output
    assert f"the page: {out}/index.html" in output
    assert (runs[0] / "evaluation.json").read_bytes() == before
    text = (out / "index.html").read_text()
    assert "<title>GANs</title>" in text
    for shown in (
        *("samples", "interpolations", "images and reconstructions", "latent maps", "attribute "),
        *("nearest training images", "Real or generated?", "2 seeds, 1 failed", "price"),
        *("jobs/compare.py", "--title GANs", "has no checkpoint yet"),
    ):
        assert shown in text, shown
    values = json.loads((out / "comparison.json").read_text())
    assert [len(c["runs"]) for c in values["contenders"]] == [2, 2]
    found = [Evaluation.read(Folder.at(run)) for run in runs[:3]]
    for tag in ("domain/fd", "random-vgg/coverage", "swd/published"):
        assert values["metrics"][tag]["values"] == [
            [found[0].metrics[tag].value, found[1].metrics[tag].value],
            [found[2].metrics[tag].value],
        ]
    assert len((out / "comparison.csv").read_text().splitlines()) > 60
    # Runs that are measured together have the figures of runs that are measured alone.
    assert run_script("evaluate", runs[2], "--samples", "64") == 0
    assert Evaluation.read(Folder.at(runs[2])).to_json()["metrics"] == found[2].to_json()["metrics"]
    capsys.readouterr()
    # The second time, nothing is measured again.
    assert run_script("compare", *arguments) == 0
    assert "measuring" not in capsys.readouterr().out
    # The page is a function of the runs.
    assert (out / "index.html").read_text() == text
    found_again = raygen.compare(runs, quiet=True, samples=64, out=str(tmp_path / "again"))
    assert found_again
    assert [c.name for c in found_again.contenders] == ["dcgan-anime", "vaegan-anime"]
    assert capsys.readouterr().out == ""


def test_what_cannot_be_compared_is_refused_in_one_line(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / f"runs/{k}" for k in range(3)]
    for run in runs[:2]:
        save_run(run, "dcgan-anime", data=str(data))
    write_dataset(tmp_path / "other", [30], [IMAGES], 64)
    save_run(runs[2], "dcgan-anime", data=str(tmp_path / "other"))
    assert "name two runs at least" in fails(capsys, "compare", runs[0])
    assert "is named twice" in fails(capsys, "compare", runs[0], runs[0])
    assert "is no run" in fails(capsys, "compare", runs[0], tmp_path / "nowhere")
    assert "holds several runs" in fails(capsys, "compare", runs[0], tmp_path / "runs")
    assert "cannot be compared" in fails(capsys, "compare", *runs)
    assert "--price -1" in fails(capsys, "compare", *runs[:2], "--price", "-1")
    for run in runs[:2]:
        for saved in (run / "checkpoints").iterdir():
            (saved / "state.json").unlink()
    assert "none of the runs can be measured" in fails(capsys, "compare", *runs[:2])
    assert not (tmp_path / "comparison").exists()
