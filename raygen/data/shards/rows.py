"""Rows of a dataset as they are read, before a network sees them. Loads no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Some rows of a split.

    Attributes:
        images: (N, H, W, 3) uint8.
        attributes: (N, A) int8: 1 true, -1 false, 0 unknown, in the manifest's order; A may be 0.
        rows: (N,) int64: their numbers in the split, in the manifest's order.
    """

    images: np.ndarray
    attributes: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class RowGroup:
    """The rows of a row group, in order. The arrays may be shared; do not write to them.

    Attributes: images: (rows, image_bytes) uint8; attributes: (rows, A) int8.
    """

    images: np.ndarray
    attributes: np.ndarray


class Undecoded(Protocol):
    """Images that are not in shards but in the files they came in; see originals.py."""

    @property
    def notes(self) -> list[str]:
        """Sentences for users about how the images were understood."""

    def group(self, split: str, number: int) -> RowGroup:
        """The row group of a split with this number in the manifest's order."""

    def labels(self, split: str, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        """The ids of rows of a split, and all their attributes, (N, A) int8."""

    def patient(self, seconds: float) -> "Undecoded":
        """The same images, retrying for so many seconds during outages of their storage."""

    def telling(self, rejected: Callable[[dict[str, str], int], None]) -> "Undecoded":
        """The same images; `rejected` is called with those that cannot be read, and how many may
        be."""
