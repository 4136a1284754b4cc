"""What a source of images is: the members that the preparation of a dataset calls.

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
        """What users should know of how the images were understood, a sentence each."""

    def splits(self) -> dict[str, range]:
        """Positions in `ids` of each split; together they cover all of `ids`."""

    @property
    def is_remote(self) -> bool:
        """Whether each `read` waits for a network, so that several at once pay."""

    def patient(self, seconds: float) -> "Source":
        """The same source, for a job that outlasts its object store's outages."""

    def size(self, position: int) -> int:
        """Bytes that `read` will return, or fewer; 0 where that is not known."""

    def read(self, position: int) -> bytes:
        """What is stored of the image at a position in `ids`. Several threads may read at once.

        Raises: BadImage if there is no such image; OSError if the place of all images fails.
        """

    def open(self, position: int, data: bytes) -> tuple[Image.Image, list[int]]:
        """An image of what `read` returned, perhaps not decoded yet, and its attributes.

        An attribute is 1 (true), -1 (false) or 0 (unknown).
        Raises: BadImage.
        """

    def description(self) -> dict[str, Any]:
        """Where the images came from, for the manifest. Equal for equal images."""
