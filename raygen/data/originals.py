"""Images that are decoded on the way to the training, straight from the files they came in.

They are read in the same planned order as prepared datasets. What cannot be known before an image
is decoded is whether it can be: the next image that can takes the place of one that cannot, so that
the plan, which counts images, stays as it is.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raygen.config.run import ImageFormat
from raygen.core.errors import ShardError, one_line
from raygen.core.marker import MARKER
from raygen.core.storage import Folder
from raygen.data.images import BadImage, fit_images
from raygen.data.shards.manifest import CHANNELS, MANIFEST, Manifest, ShardFile
from raygen.data.shards.rows import RowGroup
from raygen.data.sources.image_files import ImageFiles, folder
from raygen.data.sources.source import Source
from raygen.data.splits import TRAIN

MOST_IN_A_ROW = 100
"""How many neighbouring images may be unreadable until none is looked for to take their place."""
REJECTED_SHARE = 0.01
"""Share of the images that may be unreadable; more end the job, as they do in jobs/prepare.py."""
MOST_SIZES = 20
"""Largest number of entries of a folder that is searched for datasets."""
KEPT_BYTES = 256 * 2**20
"""Memory for decoded images of the splits that are read again and again, in bytes."""

Rejected = Callable[[dict[str, str], int], None]
"""Called with id, split and reason of an image that cannot be read, and how many may be."""


@dataclass(frozen=True)
class Originals:
    """Images of a source, decoded, cropped and resized when they are read; it is `Undecoded`.

    A row group is one image, so that no image is decoded that is not used.

    Attributes: rejected: called, in whichever process, each time an image cannot be read.
    """

    source: Source
    image: ImageFormat
    rejected: Rejected | None = None

    @functools.cached_property
    def _ranges(self) -> dict[str, range]:
        return self.source.splits()

    @functools.cached_property
    def _kept(self) -> dict[tuple[str, int], RowGroup]:
        return {}

    def __getstate__(self) -> dict[str, object]:
        # Decoded images stay in the process that decoded them.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def notes(self) -> list[str]:
        return self.source.notes

    def patient(self, seconds: float) -> "Originals":
        return dataclasses.replace(self, source=self.source.patient(seconds))

    def telling(self, rejected: Rejected) -> "Originals":
        return dataclasses.replace(self, rejected=rejected)

    def group(self, split: str, number: int) -> RowGroup:
        """Decode one image.

        Raises: ShardError if the storage fails, or neither this image nor its neighbours can be
            read.
        """
        kept = self._kept.get((split, number))
        if kept:
            return kept
        positions = self._ranges[split]
        reason = ""
        for shift in range(min(MOST_IN_A_ROW, len(positions))):
            position = positions[(number + shift) % len(positions)]
            try:
                image, values = self.source.open(position, self.source.read(position))
                [pixels] = fit_images(image, [self.image])
            except BadImage as error:
                reason = str(error)
                self._reject(position, split, reason)
                continue
            except OSError as error:
                raise ShardError(
                    f"{self.source.ids[position]}: cannot be read ({one_line(error)}); check that "
                    "the images are still where they were"
                ) from error
            found = RowGroup(pixels.reshape(1, -1), np.array([values], np.int8))
            if split != TRAIN and len(self._kept) * pixels.nbytes < KEPT_BYTES:
                self._kept[split, number] = found
            return found
        raise ShardError(
            f"{self.source.ids[positions[number]]}: cannot be read ({reason}), nor can the images "
            "after it; check that the images are still where they were"
        )

    def labels(self, split: str, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        """The ids of rows, in order, and their attributes, which are none: (N, 0) int8."""
        ids, positions = self.source.ids, self._ranges[split]
        return [ids[positions[row]] for row in rows.tolist()], np.empty((len(rows), 0), np.int8)

    def _reject(self, position: int, split: str, reason: str) -> None:
        if self.rejected:
            entry = {"id": self.source.ids[position], "split": split, "reason": reason}
            self.rejected(entry, int(REJECTED_SHARE * len(self.source.ids)))


def holds_originals(data: Folder) -> bool:
    """Whether a place is an archive or a folder of images rather than of a dataset."""
    if data.is_file():
        return True
    names = data.names()
    if not names or {MANIFEST, MARKER} & set(names):
        return False
    # A folder of datasets holds one for each size; a folder of images may hold any number.
    return len(names) > MOST_SIZES or not any(data.join(n).exists(MANIFEST) for n in names)


def open_originals(data: str, image: ImageFormat, begun: str = "") -> Manifest:
    """Describe the images of a folder, zip or tar as a dataset.

    Args:
        begun: fingerprint of the dataset that a run to resume was begun with. If it was begun by a
            version that made no test split, there is none now either.
    Raises: UserError if the images are missing or unreadable.
    """
    source = folder(data, option="--data")
    manifest = _described(source, image)
    if begun and manifest.fingerprint != begun and (older := source.without_test()):
        without_test = _described(older, image)
        if without_test.fingerprint == begun:
            return without_test
    return manifest


def _described(source: ImageFiles, image: ImageFormat) -> Manifest:
    """The manifest of a source's images."""
    about = source.description()
    splits: dict[str, tuple[ShardFile, ...]] = {}
    for split, positions in source.splits().items():
        text = json.dumps([about, dataclasses.asdict(image), split], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        count = len(positions)
        size = count * image.height * image.width * CHANNELS
        splits[split] = (ShardFile(split, count, size, digest, (1,) * count),)
    return Manifest(
        height=image.height,
        width=image.width,
        attributes=(),
        splits=splits,
        source=about,
        crop=image.crop,
        rejected=(),
        decoded_for=(image.size,),
        ignored=tuple(source.ignored),
        originals=Originals(source, image),
    )
