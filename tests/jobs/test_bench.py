"""jobs/bench.py on a handful of images: what it measures, not how fast this machine is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import load_job, run_script

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_ingestion_is_measured(tmp_path: Path) -> None:
    # A process of its own: it starts a Ray of its own, several times, and others read the script.
    options = ("--images", "80", "--repeats", "1", "--steps", "2", "--storage", str(tmp_path))
    command = [sys.executable, str(ROOT / "jobs/bench.py"), "ingest", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    output = done.stdout
    results = json.loads((tmp_path / "ingest.json").read_text())
    assert results["options"]["images"] == 80
    assert results["machine"]["cpus"] >= 1
    names = [figure["name"] for figure in results["figures"]]
    assert len(names) == len(set(names)) == 12
    for figure in results["figures"]:
        assert figure["value"] >= 0
        assert figure["name"] in output
        bar, value = figure["bar"], figure["value"]
        met = None if bar is None else value >= bar if figure["at_least"] else value <= bar
        assert figure["met"] == met


def test_a_figure_says_whether_it_meets_its_bar() -> None:
    figure = load_job("bench").Figure
    assert "MISSED" in str(figure("speed", 1.6, 1.7, True))
    assert "yes" in str(figure("speed", 1.7, 1.7, True))
    assert "MISSED" in str(figure("pause", 1.1, 1, False))
    assert "yes" in str(figure("pause", 0.9, 1, False))
    assert not {"yes", "MISSED"} & set(str(figure("share", 0.9, None, True)).split())


def test_mistakes_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ((), "the first word must be one of ingest"),
        (("ingest", "--images", "3"), "--images 3: must be at least 40"),
        (("ingest", "--repeats", "0"), "--repeats 0: must be at least 1"),
    ):
        assert run_script("bench", *arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
