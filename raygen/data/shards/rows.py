"""Rows of a dataset as they are read, before a network sees them. Loads no torch."""

from dataclasses import dataclass

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
