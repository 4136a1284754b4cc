"""What TensorBoard serves of the runs of strangers."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from tensorboard.plugins.projector import projector_plugin
from werkzeug.test import Client

from raygen.core.storage import Folder
from raygen.tensorboard.projector import TENSOR_NAME, Codes, write_projector
from raygen.tensorboard.server import FreshProjector

SECRET = "1.5\t2.5\n"
"""What a table of codes may hold, and what nobody is to see."""
FIELDS = ("tensor_path", "metadata_path", "bookmarks_path", "sprite")


@pytest.fixture(params=["as it is", "as it was"], autouse=True)
def version(request: pytest.FixtureRequest) -> Iterator[None]:
    """TensorBoard's projector, and an older one, which shows any file of the machine."""
    if request.param == "as it is":
        yield
        return

    def old(path: str, config: str) -> str:
        path = os.path.expanduser(path)
        return path if os.path.isabs(path) else os.path.join(os.path.dirname(config), path)

    with mock.patch.object(projector_plugin, "_rel_to_abs_asset_path", old):
        yield


class Board:
    """The projector of a folder of runs, as a browser sees it."""

    def __init__(self, folder: Path) -> None:
        runs = [
            SimpleNamespace(run_name=path.name)
            for path in sorted(folder.iterdir())
            if path.is_dir()
        ]
        provider = SimpleNamespace(list_runs=lambda *_, **__: runs)
        self._apps = FreshProjector(
            SimpleNamespace(data_provider=provider, logdir=str(folder))
        ).get_plugin_apps()

    def ask(self, route: str, **parameters: str) -> tuple[int, bytes]:
        answer = Client(self._apps[route]).get("/", query_string=parameters)
        return answer.status_code, answer.data

    def runs(self) -> list[str]:
        found: list[str] = json.loads(self.ask("/runs")[1])
        return found

    def everything(self, run: str, name: str) -> bytes:
        """All that it shows of a run."""
        routes = ("/tensor", "/metadata", "/bookmarks", "/sprite_image")
        answers = [self.ask("/info", run=run)]
        answers += [self.ask(route, run=run, name=name) for route in routes]
        return b"".join(data for status, data in answers if status == 200)


def write_run(folder: Path, value: float = 7.0) -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    codes = np.full((2, 3), value)
    write_projector(Folder.at(folder), Codes(codes, images, ["a", "b"], (), np.zeros((2, 0))))


def write_config(folder: Path, **named: str) -> None:
    """A stranger's run, whose configuration names files."""
    (folder / "projector").mkdir(parents=True, exist_ok=True)
    (folder / "projector/own.tsv").write_text("1\t2\n3\t4\n")
    fields = {"tensor_path": "projector/own.tsv"} | named
    sprite = fields.pop("sprite", "")
    lines = [f"{field}: {json.dumps(path)}" for field, path in fields.items()]
    lines += (
        [f"sprite {{ image_path: {json.dumps(sprite)} single_image_dim: [1, 1] }}"]
        if sprite
        else []
    )
    text = "\n".join([f'tensor_name: "{TENSOR_NAME}"', *lines])
    (folder / "projector_config.pbtxt").write_text(f"embeddings {{\n{text}\n}}\n")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("how", ["absolute", "above", "beside", "home", "link", "through a link"])
def test_a_run_shows_no_file_from_outside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, how: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    secret = tmp_path / "secret.tsv"
    secret.write_text(SECRET)
    runs = tmp_path / "runs"
    write_run(runs / "mine")
    (runs / "mine/secret.tsv").write_text(SECRET)
    theirs = runs / "theirs"
    (theirs / "projector").mkdir(parents=True)
    (theirs / "projector/link.tsv").symlink_to(secret)
    (theirs / "folder").symlink_to(tmp_path)
    path = {
        "absolute": str(secret),
        "above": "../../secret.tsv",
        "beside": "../mine/secret.tsv",
        "home": "~/secret.tsv",
        "link": "projector/link.tsv",
        "through a link": "folder/secret.tsv",
    }[how]
    write_config(theirs, **{field: path})
    board = Board(runs)
    assert board.runs() == ["mine"]
    seen = board.everything("theirs", TENSOR_NAME)
    assert SECRET.encode() not in seen
    assert np.array([1.5, 2.5], np.float32).tobytes() not in seen
    assert np.full(6, 7, np.float32).tobytes() in board.everything("mine", TENSOR_NAME)


def test_a_configuration_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    write_config(tmp_path / "elsewhere")
    write_run(tmp_path / "runs/mine")
    (tmp_path / "runs/theirs").mkdir()
    link = tmp_path / "runs/theirs/projector_config.pbtxt"
    link.symlink_to(tmp_path / "elsewhere/projector_config.pbtxt")
    assert Board(tmp_path / "runs").runs() == ["mine"]


def test_what_lies_in_its_folder_is_shown(tmp_path: Path) -> None:
    # Which may itself be a link, as to a larger disk.
    write_config(tmp_path / "large disk/run", metadata_path="projector/own.tsv")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/linked").symlink_to(tmp_path / "large disk/run")
    board = Board(tmp_path / "runs")
    assert board.runs() == ["linked"]
    assert np.array([1, 2, 3, 4], np.float32).tobytes() in board.everything("linked", TENSOR_NAME)
    assert b"3\t4" in board.everything("linked", TENSOR_NAME)


@pytest.mark.parametrize(
    "write",
    [
        lambda run: (run / "projector_config.pbtxt").write_text("embeddings { no such thing"),
        lambda run: (run / "projector_config.pbtxt").write_bytes(b"\xff\xfe\x00"),
        lambda run: (run / "projector/own.tsv").write_text("no number\n"),
        lambda run: (run / "projector/own.tsv").write_text(""),
        lambda run: (run / "projector/own.tsv").write_bytes(b"\xff\xfe\x00"),
        lambda run: (run / "projector/own.tsv").unlink(),
        lambda run: write_config(run, tensor_path="projector"),
    ],
)
def test_a_run_that_cannot_be_read_hides_no_other(tmp_path: Path, write: Any) -> None:
    write_run(tmp_path / "mine")
    write_config(tmp_path / "theirs")
    write(tmp_path / "theirs")
    board = Board(tmp_path)
    assert board.runs() == ["mine"]
    assert np.full(6, 7, np.float32).tobytes() in board.everything("mine", TENSOR_NAME)
    write_config(tmp_path / "theirs")
    assert board.runs() == ["mine", "theirs"]
