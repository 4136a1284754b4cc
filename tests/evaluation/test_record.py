"""`evaluation.json`: what was written is read, and what was damaged is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.evaluation.record import FILE, Evaluation, Measured


def evaluation() -> Evaluation:
    figures = Measured(1.5, 1.25, 1.75, 0.5, 9.0, 100, "domain")
    unknown = Measured(2.0, math.nan, math.nan, math.nan, math.inf, 50)
    metrics = {"domain/fd": figures, "swd/published": unknown}
    return Evaluation("domain/fd", metrics, {"split": "test", "notes": ["ü"]})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    folder.write_json(FILE, evaluation().to_json())
    found = Evaluation.read(folder)
    assert found.metrics["domain/fd"] == evaluation().metrics["domain/fd"]
    unknown = found.metrics["swd/published"]
    assert unknown.value == 2
    # JSON has neither NaN nor infinities.
    assert all(math.isnan(v) for v in (unknown.low, unknown.floor, unknown.untrained))
    assert (found.objective, found.about) == ("domain/fd", evaluation().about)
    entry = json.loads((tmp_path / FILE).read_text())["metrics"]["domain/fd"]
    names = ["value", "low", "high", "floor", "untrained", "n", "extractor"]
    assert list(entry) == names


def test_what_is_damaged_is_refused_in_one_line(tmp_path: Path) -> None:
    folder, whole = Folder.at(tmp_path), evaluation().to_json()
    with pytest.raises(FileNotFoundError):
        Evaluation.read(folder)
    changes: list[dict[str, Any]] = [
        {"format_version": 2},
        {"objective": "swd/other"},
        {"metrics": {"domain/fd": {"value": "x"}}},
        {"about": []},
    ]
    for changed in changes:
        folder.write_json(FILE, whole | changed)
        with pytest.raises(UserError, match="evaluate again") as error:
            Evaluation.read(folder)
        assert "\n" not in str(error.value)
