"""Conversion of pixels from bytes, as in files, to the numbers that networks compute with."""

import numpy as np
import torch

CPU = torch.device("cpu")


def as_images(pixels: np.ndarray, device: torch.device = CPU) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [-1, 1] on the device, channels last."""
    # Copy, because pixels from a shard may be read-only, about which torch warns.
    return scale_images(torch.from_numpy(np.array(pixels)), device)


def scale_images(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [-1, 1] on the device, channels last."""
    on_device = images.to(device, non_blocking=True)
    # The bytes are in NHWC order, which is what channels_last means, so permuting copies nothing.
    return on_device.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
