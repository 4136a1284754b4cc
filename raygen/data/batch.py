"""Batches of images and their attributes, on which models are trained and measured."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raygen.data.pixels import scale_images
from raygen.data.shards.rows import Rows


@dataclass(frozen=True)
class Batch:
    """One worker's share of a step's images, or of the validation images.

    Attributes:
        images: (N, 3, H, W) float32 in [-1, 1].
        attributes: (N, A) int8: 1 true, -1 false, 0 unknown, in the manifest's order; A may be 0.
        rows: (N,) int64: each image's row number in the split, in the manifest's order.
    """

    images: Tensor
    attributes: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @staticmethod
    def of(rows: Rows, device: torch.device) -> "Batch":
        """Copy rows of a dataset to a device."""
        return RawBatch.of(rows).on(device)


@dataclass(frozen=True)
class RawBatch:
    """A batch before its copy to the device. Its images are bytes, a quarter of the final size.

    Attributes: images: (N, H, W, 3) uint8; attributes, rows: as in `Batch`.
    """

    images: Tensor
    attributes: Tensor
    rows: Tensor

    @staticmethod
    def of(rows: Rows, pin_memory: bool = False) -> "RawBatch":
        """Wrap rows of a dataset. Args: pin_memory: for asynchronous copies to a GPU."""
        tensors = [torch.from_numpy(part) for part in (rows.images, rows.attributes, rows.rows)]
        return RawBatch(*(part.pin_memory() if pin_memory else part for part in tensors))

    def on(self, device: torch.device) -> Batch:
        """Copy the batch to a device, and scale its images."""
        return Batch(
            images=scale_images(self.images, device),
            attributes=self.attributes.to(device, non_blocking=True),
            rows=self.rows.to(device, non_blocking=True),
        )
