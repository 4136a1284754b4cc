"""How many workers a cluster has room for, and what they reserve."""

import re

import pytest
from helpers import tiny_config

from raygen.cluster.connection import Nodes
from raygen.config.run import PRESETS, Reader
from raygen.core.errors import UserError
from raygen.training.placement import Placement, fitting_cpus, plan_workers

FOUR_GPUS = [{"CPU": 64.0, "GPU": 4.0}]


def planned(nodes: Nodes, possible: Nodes = (), **options: int | bool | str) -> Placement:
    """What is planned for batches of 8."""
    return plan_workers(tiny_config(**options), nodes, possible or nodes)


def test_two_workers_without_gpus_and_one_for_each_gpu() -> None:
    # Half a CPU is left for the tasks that read.
    assert planned([{"CPU": 2}]) == Placement(2, False, 0.75)
    assert planned([{"CPU": 2}], reader="direct") == Placement(2, False, 1.0)
    assert planned([{"CPU": 64}]) == Placement(2, False, 1.0)
    assert planned(FOUR_GPUS) == Placement(4, True, 1.0)
    assert planned(FOUR_GPUS, num_workers=2) == Placement(2, True, 1.0)
    assert planned([{"CPU": 2}], num_workers=1) == Placement(1, False, 1.0)
    assert planned([{"CPU": 2}], num_workers=4, reader="direct") == Placement(4, False, 0.5)


def test_an_autoscaler_may_bring_what_is_missing() -> None:
    head = [{"CPU": 8.0}]
    growing = [*head, *[{"CPU": 8.0, "GPU": 2.0}] * 3]
    assert planned(head, growing, num_workers=4) == Placement(4, True, 1.0)
    # Unless it is told how many, a run begins with what is there, and takes what comes.
    assert planned(head, growing) == Placement(4, True, 1.0, (1, 2, 4))
    assert planned(growing, growing) == Placement(4, True, 1.0)
    assert planned([{"CPU": 2.0}], [{"CPU": 2.0}] * 9).sizes == (1, 2)
    with pytest.raises(
        UserError, match="has 6 GPUs, .* for 6 workers at most; use --num-workers 6"
    ):
        planned(head, growing, num_workers=8)


def test_a_run_that_lost_machines_takes_as_many_as_share_its_batch() -> None:
    assert planned([{"CPU": 8.0, "GPU": 1.0}] * 3).workers == 2
    assert planned([{"CPU": 8.0, "GPU": 1.0}] * 7).workers == 4
    assert planned([{"CPU": 8.0, "GPU": 1.0}] * 9).workers == 8
    halves = PRESETS["dcgan-anime"].updated({"batch_size": 8}, "test")
    eight = [{"CPU": 8, "GPU": 8}]
    assert plan_workers(halves, eight, eight).workers == 4


def test_between_bounds_there_are_as_many_workers_as_have_room_and_share_a_batch() -> None:
    placement = planned([{"CPU": 8.0, "GPU": 4.0}], num_workers="2:8")
    assert placement == Placement(8, True, 1.0, (2, 4, 8))
    assert placement.describe() == "2 to 8 GPU workers"

    def gpus(*counts: int) -> int:
        return placement.fitting([{"CPU": 16.0, "GPU": n} for n in counts], "ray-data")

    assert [gpus(1), gpus(1, 1), gpus(3), gpus(4, 3), gpus(4, 4), gpus(8, 8)] == [0, 2, 2, 4, 8, 8]
    assert placement.fitting([{"CPU": 16.0, "GPU": 8}], "ray-data", at_most=7) == 4
    assert placement.missing([{"CPU": 8.0, "GPU": 1.0}]) == "1 of 2 GPUs are there"
    assert not placement.missing([{"CPU": 8.0, "GPU": 2.0}])
    # Processors that are not there yet take nothing from those that are.
    small = planned([{"CPU": 2.0}], num_workers="1:8")
    assert small == Placement(8, False, 0.75, (1, 2, 4, 8))
    assert [small.fitting([{"CPU": 2.0}] * n, "ray-data") for n in (1, 2, 3, 4)] == [2, 4, 4, 8]
    # Any machine may be the last that is left.
    assert planned([{"CPU": 1.0}] * 2, num_workers="1:2").cpus_per_worker == 0.5
    # One number alone is left.
    assert planned([{"CPU": 8.0}], num_workers="3:7") == Placement(4, False, 1.0)
    assert Placement(2, False, 1.0).describe() == "2 CPU workers"


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ("8:2", "--num-workers 8:2: must name the fewest first, at least 1, as 2:8"),
        ("0:2", "--num-workers 0:2: must name the fewest first"),
        ("2:", "--num-workers 2:: must be a number of workers, or the fewest and most, as 2:8"),
        ("two", "--num-workers two: must be a number of workers"),
        ("1:1000000", "--num-workers 1:1000000: must be at most 100,000"),
        (
            "5:7",
            "--num-workers 5:7: --batch-size 8 cannot be split evenly over any number of workers "
            "from 5 to 7; it can over 1, 2, 4, 8",
        ),
        ("4:8", "--num-workers 4: the cluster has 2 GPUs, on which there is room for 2 workers"),
    ],
)
def test_bounds_that_cannot_be_kept_are_refused(bounds: str, message: str) -> None:
    nodes = [{"CPU": 4.0, "GPU": 2.0}] if bounds == "4:8" else [{"CPU": 64.0}]
    with pytest.raises(UserError, match=re.escape(message)):
        planned(nodes, num_workers=bounds)


def test_workers_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="--num-workers 8: the cluster has 4 GPUs"):
        planned(FOUR_GPUS, num_workers=8)
    with pytest.raises(
        UserError, match="has 2 CPUs, .* for 8 workers at most; use --num-workers 2"
    ):
        planned([{"CPU": 1}, {"CPU": 1}], num_workers=16)
    with pytest.raises(UserError, match="--batch-size 8: cannot be split evenly over 3 workers"):
        planned([{"CPU": 4}], num_workers=3)
    with pytest.raises(UserError, match="--sync-bn: needs GPUs"):
        planned([{"CPU": 4}], sync_bn=True)
    assert planned([{"CPU": 4, "GPU": 2}], sync_bn=True).workers == 2
    with pytest.raises(UserError, match="has 0 CPUs, .* for 0 workers at most; add machines to it"):
        planned([{"CPU": 0}])
    with pytest.raises(UserError, match="leaves no CPU for each worker"):
        planned([{"GPU": 2}, {"CPU": 4}])


def test_half_batches_must_be_split_evenly_too() -> None:
    config = PRESETS["dcgan-anime"].updated({"batch_size": 10, "num_workers": 2}, "test")
    with pytest.raises(UserError, match="cannot be split evenly over 2 workers; use 8 or 12"):
        plan_workers(config, [{"CPU": 4}], [{"CPU": 4}])


def test_workers_fit_on_single_nodes_not_only_on_all_together() -> None:
    # 6 workers of 5/6 CPU would leave the sixth without a place.
    apart = [{"CPU": 2}, {"CPU": 3}]
    six = planned(apart, num_workers=6, batch_size=12, reader="direct")
    assert six.cpus_per_worker == 0.75
    # Processors of nodes without GPUs are none for workers that need one.
    mixed = [{"CPU": 4.0, "GPU": 8.0}, {"CPU": 32.0}]
    assert planned(mixed, reader="direct").cpus_per_worker == 0.5
    assert fitting_cpus(mixed, 9, "direct", 1.0) == 0.0


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 1), (2, 2), (2, 4), (16, 2), (64, 3)])
def test_workers_leave_room_for_the_stream(cpus: int, workers: int) -> None:
    def share(reader: Reader) -> float:
        return fitting_cpus([{"CPU": cpus}], workers, reader, 0.0)

    assert share("direct") == pytest.approx(cpus / workers, abs=1e-4)
    assert 0 < share("ray-data") <= share("direct")
    assert cpus - share("ray-data") * workers >= 0.25
