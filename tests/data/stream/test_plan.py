"""The order of a run: complete, shuffled, and the same for any number of workers."""

import numpy as np
import pytest

from raygen.data.stream.order import CHUNK_BYTES, StreamPlan

COUNT = 37
"""Images: a prime number, so that no batch size or worker count divides it."""
BATCH = 6


def plan_of(groups: tuple[int, ...], batch_size: int = BATCH, seed: int = 0) -> StreamPlan:
    """A plan with chunks of three steps."""
    return StreamPlan(groups, batch_size, CHUNK_BYTES // (3 * batch_size), seed)


def planned(plan: StreamPlan, first: int, stop: int, rank: int = 0, world: int = 1) -> np.ndarray:
    """(steps, batch_size / world) row numbers."""
    return np.concatenate(
        [plan.worker_rows(c, rank, world)[low:high] for c, low, high in plan.pieces(first, stop)]
    )


def steps_for(epochs: int, batch_size: int = BATCH) -> int:
    return -(-epochs * COUNT // batch_size)


@pytest.mark.parametrize("batch_size", [1, 6, 7, 8, 12, 64])
@pytest.mark.parametrize("groups", [(5, 5, 3, 5, 2, 5, 5, 1, 5, 1), (COUNT,), (1,) * COUNT])
def test_each_epoch_holds_each_image_once(groups: tuple[int, ...], batch_size: int) -> None:
    plan = plan_of(groups, batch_size)
    uses = np.zeros((4, COUNT), int)
    for step, rows in enumerate(planned(plan, 0, steps_for(3, batch_size))):
        # Position g belongs to lane g mod lanes, and a batch is sorted by lane.
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        by_lane = positions[np.argsort(positions % plan.lanes, kind="stable")]
        np.add.at(uses, (by_lane // COUNT, rows), 1)
    assert (uses[:3] == 1).all()


@pytest.mark.parametrize("world", [2, 3, 6])
def test_any_number_of_workers_shares_the_same_global_batches(world: int) -> None:
    plan = plan_of((5, 5, 3, 5, 2, 5, 5, 1, 5, 1))
    whole = planned(plan, 0, steps_for(3))
    parts = [planned(plan, 0, steps_for(3), rank, world) for rank in range(world)]
    assert all(part.shape[1] == BATCH // world for part in parts)
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_the_order_depends_on_seed_and_epoch() -> None:
    groups = (5,) * 8
    epoch_steps = 40 // 4

    def order(seed: int, epoch: int) -> list[int]:
        plan = plan_of(groups, 4, seed)
        first = epoch * epoch_steps
        rows: list[int] = planned(plan, first, first + epoch_steps).reshape(-1).tolist()
        return rows

    assert order(0, 0) == order(0, 0)
    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)] + [list(range(40))]
    assert all(sorted(rows) == list(range(40)) for rows in orders)
    assert len({tuple(rows) for rows in orders}) == len(orders)


def test_files_and_rows_within_them_are_both_shuffled() -> None:
    plan = StreamPlan((20,) * 250, 50, CHUNK_BYTES // (50 * 10), 0)
    batches = planned(plan, 0, 100)
    rows = batches.reshape(-1)
    assert np.mean(rows[1:] == rows[:-1] + 1) < 0.02
    # A batch draws from many of the row groups of its chunk, ...
    assert min(len(set(batch // 20)) for batch in batches) >= 12
    # ... and a chunk of ten steps, 25 row groups' worth of images, reads hardly more than these.
    for first in range(0, 100, 10):
        assert len(set(batches[first : first + 10].reshape(-1) // 20)) <= 25 + plan.lanes


def test_a_run_that_starts_later_sees_the_rest_of_the_same_stream() -> None:
    plan = plan_of((5, 5, 3, 5, 2, 5, 5, 1, 5, 1))
    whole = planned(plan, 0, 20)
    for first in (1, 3, 7, 19):
        assert np.array_equal(planned(plan, first, 20), whole[first:])
    assert list(plan.pieces(20, 20)) == []


def test_long_chunks_can_be_cut_into_pieces() -> None:
    order = plan_of((5,) * 8)
    assert list(order.pieces(0, 7)) == [(0, 0, 3), (1, 0, 3), (2, 0, 1)]
    assert list(order.pieces(1, 8, 2)) == [(0, 1, 2), (0, 2, 3), (1, 0, 2), (1, 2, 3), (2, 0, 2)]
    whole = planned(order, 0, 8)
    pieces = [order.worker_rows(c, 0, 1)[low:high] for c, low, high in order.pieces(0, 8, 2)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_a_plan_of_any_length_takes_no_memory() -> None:
    order = StreamPlan((100,), batch_size=10, image_bytes=12, seed=0)
    assert next(order.pieces(0, 10**18)) == (0, 0, 1024)
