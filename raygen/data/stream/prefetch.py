"""Prefetches batches, as tensors, in a thread of its own."""

import queue
import threading
from collections.abc import Iterator

from raygen.data.batch import RawBatch
from raygen.data.shards.rows import Rows


class Prefetcher:
    """Iterates over batches, and reads ahead from its creation on.

    Use it as a context manager, or `close` it, so that its thread ends.
    """

    def __init__(self, batches: Iterator[Rows], depth: int = 4, pin_memory: bool = False) -> None:
        """Args: depth: number of batches to hold ready; pin_memory: for fast copies to a GPU."""
        self._ready: queue.Queue[RawBatch | BaseException | None] = queue.Queue(depth)
        self._closed = threading.Event()
        self._pin_memory = pin_memory
        self._thread = threading.Thread(target=self._run, args=(batches,), daemon=True)
        self._thread.start()

    def _run(self, batches: Iterator[Rows]) -> None:
        try:
            for rows in batches:
                if not self._put(RawBatch.of(rows, self._pin_memory)):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: RawBatch | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[RawBatch]:
        """Yields: batches on the CPU. Raises: what the source of the batches raised."""
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
