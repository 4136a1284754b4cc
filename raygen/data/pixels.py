"""Pixels as bytes, as files hold them, and as the numbers that networks compute with."""

import numpy as np
import torch

CPU = torch.device("cpu")


def as_images(pixels: np.ndarray, device: torch.device = CPU) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [-1, 1] on the device, channels last."""
    # A copy, because pixels read from a shard may not be written to, which torch warns about.
    return scale_images(torch.from_numpy(np.array(pixels)), device)


def scale_images(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [-1, 1] on the device, channels last."""
    on_device = images.to(device, non_blocking=True)
    # The bytes lie in NHWC order, which is what channels_last means: no copy is made here.
    return on_device.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
