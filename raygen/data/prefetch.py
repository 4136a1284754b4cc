"""Keeps the next batches ready, as tensors, in a thread of its own."""

import queue
import threading
from collections.abc import Iterator

import numpy as np
import torch

from raygen.data.stream import Batch

CPU = torch.device("cpu")


class Prefetcher:
    """Iterates over batches of images, reading ahead from the moment it is made.

    Use as a context manager, or `close` it: the thread ends with it.
    """

    def __init__(self, batches: Iterator[Batch], depth: int = 4, pin_memory: bool = False) -> None:
        """Args: depth: batches held ready; pin_memory: for copies to a GPU."""
        self._ready: queue.Queue[torch.Tensor | BaseException | None] = queue.Queue(depth)
        self._closed = threading.Event()
        self._pin_memory = pin_memory
        self._thread = threading.Thread(target=self._run, args=(batches,), daemon=True)
        self._thread.start()

    def _run(self, batches: Iterator[Batch]) -> None:
        try:
            for batch in batches:
                images = torch.from_numpy(batch.images)
                if not self._put(images.pin_memory() if self._pin_memory else images):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: torch.Tensor | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yields: (N, H, W, 3) uint8 on the CPU. Raises: what the source of the batches raised."""
        while True:
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        self._closed.set()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def as_images(pixels: np.ndarray, device: torch.device = CPU) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [-1, 1] on the device, channels last."""
    # A copy, because pixels read from a shard may not be written to, which torch warns about.
    return scale_images(torch.from_numpy(np.array(pixels)), device)


def scale_images(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [-1, 1] on the device, channels last."""
    on_device = images.to(device, non_blocking=True)
    # The bytes lie in NHWC order, which is what channels_last means: no copy is made here.
    return on_device.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)
