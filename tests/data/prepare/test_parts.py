"""One part of a preparation: what is read ahead, and how much of it."""

import threading
from pathlib import Path

import pytest
from PIL import Image

from raygen.config.run import ImageFormat
from raygen.core.storage import Folder
from raygen.data.prepare import parts
from raygen.data.prepare.parts import Target, make_part, plan_parts
from raygen.data.sources.drawn import DrawnFaces
from raygen.data.splits import TRAIN

SMALL = ImageFormat(8, 8)


class FarAway(DrawnFaces):
    """Images of 10 bytes each that are read over a network."""

    @property
    def is_remote(self) -> bool:
        return True

    def size(self, position: int) -> int:
        return 10

    def read(self, position: int) -> bytes:
        with LOCK:
            WAITING.add(position)
            MOST.append(len(WAITING))
        return bytes(10)

    def open(self, position: int, data: bytes) -> tuple[Image.Image, list[int]]:
        with LOCK:
            WAITING.discard(position)
        return super().open(position, data)


LOCK = threading.Lock()
WAITING: set[int] = set()
MOST: list[int] = []


@pytest.mark.parametrize(("room", "images"), [(1, 1), (35, 3), (10_000, parts.READERS + 1)])
def test_images_that_are_read_ahead_are_bounded_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, images: int
) -> None:
    monkeypatch.setattr(parts, "READ_AHEAD_BYTES", room)
    WAITING.clear()
    MOST.clear()
    source = FarAway(40)
    target = Target(Folder.at(tmp_path), SMALL)
    planned = plan_parts({TRAIN: range(40)}, [target.image_bytes], 1)
    whole = [[file for part in planned for file in part[0]]]
    [made] = make_part(source, source.ids, [target], whole)
    assert sum(record.file.rows for record in made.values() if record.file) == 40
    # The one that is in use is not waiting any more.
    assert max(MOST) <= images + 1
