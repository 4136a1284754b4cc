"""What is decided before and around the workers."""

from unittest import mock

import pytest
import torch
from helpers import tiny_config

from raygen.errors import UserError
from raygen.training.ray_worker import _cpus_per_worker, plan_workers, use_bf16


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


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 1), (2, 2), (2, 4), (16, 2), (64, 3)])
def test_workers_leave_room_for_the_stream(cpus: int, workers: int) -> None:
    with mock.patch("ray.cluster_resources", return_value={"CPU": cpus}):
        share = _cpus_per_worker(workers)
    assert 0 < share <= 1
    assert cpus - share * workers >= 0.25


def test_precision_can_be_chosen() -> None:
    cpu = torch.device("cpu")
    assert use_bf16("bf16", cpu)
    assert not use_bf16("fp32", cpu)
    assert use_bf16("auto", cpu) in (True, False)
