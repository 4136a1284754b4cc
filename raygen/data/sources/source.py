"""The protocol of sources of images, from which datasets are prepared.

A source lists images by id (their file names), says which split each belongs to, and reads one
image at a time. It is sent to Ray tasks, so it holds paths and lists but no open files.
"""

from typing import Any, Protocol

from PIL import Image


class Source(Protocol):
    """A list of images with attributes, in an order that is always the same."""

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the binary attributes that each image carries; may be empty."""

    @property
    def ids(self) -> list[str]:
        """Each image's name, unique."""

    @property
    def ignored(self) -> list[str]:
        """Other files that were found beside the images."""

    @property
    def notes(self) -> list[str]:
        """Sentences for users about how the images were understood."""

    def splits(self) -> dict[str, range]:
        """Positions in `ids` of each split; together they cover all of `ids`."""

    def without_test(self) -> "Source | None":
        """The same images, divided as by versions that made no test split of them.

        Datasets of those versions are completed, and go on, as they are.

        Returns: None if those versions divided them in the same way.
        """

    @property
    def is_remote(self) -> bool:
        """Whether `read` waits for a network, so that concurrent calls are faster."""

    def patient(self, seconds: float) -> "Source":
        """The same source, retrying for so many seconds during outages of its object store."""

    def size(self, position: int) -> int:
        """Approximate number of bytes that `read` will return; 0 if it is not known."""

    def read(self, position: int) -> bytes:
        """Read the file of the image at a position in `ids`. Several threads may read at once.

        Raises: BadImage if this image cannot be read; OSError if the storage itself fails.
        """

    def open(self, position: int, data: bytes) -> tuple[Image.Image, list[int]]:
        """Open the image in the data that `read` returned; it may be decoded lazily.

        Returns: the image, and its attributes: 1 (true), -1 (false) or 0 (unknown).
        Raises: BadImage if the data is not an image that raygen reads.
        """

    def description(self) -> dict[str, Any]:
        """Describe the origin of the images for the manifest; equal for equal images."""
