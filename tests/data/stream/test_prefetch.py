"""Reading ahead, and the way from bytes to the values that networks see."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from raygen.data.pixels import scale_images
from raygen.data.shards.rows import Rows
from raygen.data.stream.prefetch import Prefetcher


def batches(count: int) -> Iterator[Rows]:
    for number in range(count):
        images = np.full((2, 4, 4, 3), number, np.uint8)
        yield Rows(images, np.full((2, 1), -1, np.int8), np.arange(2))


def test_batches_arrive_in_order_and_end() -> None:
    with Prefetcher(batches(20), depth=3) as feed:
        assert [int(batch.images[0, 0, 0, 0]) for batch in feed] == list(range(20))


def test_a_batch_on_its_device_has_scaled_images_and_what_is_known_of_them() -> None:
    with Prefetcher(batches(2)) as feed:
        batch = list(feed)[1].on(torch.device("cpu"))
    assert len(batch) == 2
    assert batch.images.shape == (2, 3, 4, 4)
    torch.testing.assert_close(batch.images, torch.full((2, 3, 4, 4), 1 / 127.5 - 1))
    assert batch.attributes.tolist() == [[-1], [-1]]
    assert batch.rows.tolist() == [0, 1]


def test_an_error_of_the_source_is_raised_where_the_batch_would_have_been() -> None:
    def failing() -> Iterator[Rows]:
        yield from batches(2)
        raise ValueError("the third is broken")

    with Prefetcher(failing()) as feed:
        images = iter(feed)
        next(images)
        next(images)
        with pytest.raises(ValueError, match="the third is broken"):
            next(images)


def test_closing_ends_the_thread_even_when_nobody_reads() -> None:
    before = threading.active_count()
    feed = Prefetcher(batches(1000), depth=2)
    assert threading.active_count() == before + 1
    feed.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_scaling_is_exact_and_channels_last() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3)
    scaled = scale_images(values.contiguous(), torch.device("cpu"))
    assert scaled.shape == (1, 3, 16, 16)
    assert scaled.dtype == torch.float32
    assert scaled.is_contiguous(memory_format=torch.channels_last)
    expected = torch.arange(256, dtype=torch.float64).reshape(16, 16) / 127.5 - 1
    torch.testing.assert_close(scaled[0, 1].double(), expected, rtol=0, atol=1e-6)
    assert (float(scaled.min()), float(scaled.max())) == (-1.0, 1.0)
