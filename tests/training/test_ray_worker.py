"""What is decided before and around the workers."""

from unittest import mock

import pytest
from helpers import tiny_config

from raygen.config import PRESETS
from raygen.errors import UserError
from raygen.training.ray_worker import plan_workers, share_of_cpus


def planned(resources: dict[str, float], **options: int | bool) -> tuple[int, bool]:
    with mock.patch("ray.cluster_resources", return_value=resources):
        return plan_workers(tiny_config(**options))


def test_two_workers_without_gpus_and_one_for_each_gpu() -> None:
    assert planned({"CPU": 2}) == (2, False)
    assert planned({"CPU": 64}) == (2, False)
    assert planned({"CPU": 64, "GPU": 4}) == (4, True)
    assert planned({"CPU": 64, "GPU": 4}, num_workers=2) == (2, True)
    assert planned({"CPU": 2}, num_workers=1) == (1, False)


def test_workers_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="--num-workers 8: the cluster has 4 GPUs"):
        planned({"CPU": 64, "GPU": 4}, num_workers=8)
    with pytest.raises(UserError, match="--batch-size 8: cannot be split evenly over 3 workers"):
        planned({"CPU": 4}, num_workers=3)
    with pytest.raises(UserError, match="--sync-bn: needs GPUs"):
        planned({"CPU": 4}, sync_bn=True)
    assert planned({"CPU": 4, "GPU": 2}, sync_bn=True) == (2, True)


def test_half_batches_must_be_split_evenly_too() -> None:
    config = PRESETS["dcgan-anime"].run.updated({"batch_size": 10, "num_workers": 2}, "test")
    with (
        mock.patch("ray.cluster_resources", return_value={"CPU": 4}),
        pytest.raises(UserError, match="cannot be split evenly over 2 workers; use 8 or 12"),
    ):
        plan_workers(config)


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 1), (2, 2), (2, 4), (16, 2), (64, 3)])
def test_workers_leave_room_for_the_stream(cpus: int, workers: int) -> None:
    share = share_of_cpus(cpus, workers, "ray-data")
    alone = share_of_cpus(cpus, workers, "direct")
    assert alone == min(1, cpus / workers)
    assert 0 < share <= alone
    assert cpus - share * workers >= 0.25
