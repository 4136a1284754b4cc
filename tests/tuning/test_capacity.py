"""How trials share a cluster: everything that is planned fits at once."""

import random
from collections.abc import Sequence

import pytest

from raygen.config.run import Reader
from raygen.core.errors import UserError
from raygen.tuning.capacity import TRIAL_MEMORY, Capacity, plan_capacity

GIB = 2**30
LAPTOP = [{"CPU": 2.0, "memory": 12.0 * GIB}]
GPUS = [{"CPU": 16.0, "GPU": 4.0, "memory": 64.0 * GIB}]


def planned(
    nodes: Sequence[dict[str, float]],
    workers: int = 1,
    wish: str = "auto",
    trials: int = 100,
    reader: Reader = "direct",
    per_gpu: int = 1,
) -> Capacity:
    return plan_capacity(nodes, workers, wish, trials, reader, per_gpu)


def test_as_many_trials_at_once_as_there_are_places_for_their_workers() -> None:
    assert planned(LAPTOP).at_once == 2
    assert planned(LAPTOP, trials=1).at_once == 1
    assert planned(LAPTOP, workers=2).at_once == 1
    assert planned(GPUS).at_once == 4
    assert planned(GPUS, workers=2).at_once == 2
    assert planned([*GPUS, *GPUS], workers=2).at_once == 4
    assert planned([{"CPU": 64.0, "memory": 6 * TRIAL_MEMORY}]).at_once == 6
    assert planned([{"CPU": 64.0, "memory": TRIAL_MEMORY}]).at_once == 1


def test_what_a_trial_s_process_reserves() -> None:
    assert planned(LAPTOP).trial_resources == {"CPU": 1.0}
    assert planned(LAPTOP, wish="1").trial_resources == {"CPU": 2.0}
    assert planned(GPUS).trial_resources == {"CPU": 4.0, "GPU": 1.0}
    # Small networks may share a GPU.
    assert planned(GPUS, wish="8").trial_resources == {"CPU": 2.0, "GPU": 0.5}
    # Nor do more run than wished for: they would not find the processors.
    assert planned(GPUS, wish="2").trial_resources == {"CPU": 8.0, "GPU": 1.0}
    shared = planned(GPUS, per_gpu=4)
    assert shared.trial_resources == {"CPU": 1.0, "GPU": 0.25}
    assert str(shared) == "16 trials at once on GPUs, up to 4 on each"
    # Fewer trials than places have more of a GPU each.
    assert planned(GPUS, trials=6, per_gpu=4).gpus_per_worker == 0.5
    assert planned(GPUS, trials=3, per_gpu=4).gpus_per_worker == 1
    # Several workers exchange gradients, so each has a GPU; and who names a number decides.
    assert planned(GPUS, workers=2, per_gpu=4).at_once == 2
    assert planned(GPUS, wish="8", per_gpu=4).trial_resources == {"CPU": 2.0, "GPU": 0.5}
    # The driver of several workers only waits for them.
    assert planned(LAPTOP, workers=2).trial_resources == {"CPU": 0.01}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 9}, "--workers-per-trial 9: the cluster has 2 CPUs; use at most 8"),
        ({"wish": "9"}, "--max-concurrent 9: 9 trials of 1 worker need more than the 2 CPUs"),
        ({"wish": "2", "workers": 5}, "use at most 1, or auto"),
        ({"wish": "0"}, "--max-concurrent 0: must be auto, or a number of trials"),
        ({"wish": "many"}, "--max-concurrent many: must be auto"),
    ],
)
def test_what_cannot_run_is_refused_with_the_numbers(
    options: dict[str, str | int], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        planned(LAPTOP, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_more_workers_than_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="the cluster has 4 GPUs; use at most 4"):
        planned(GPUS, workers=5)
    with pytest.raises(UserError, match="use at most 1, or auto"):
        planned(GPUS, workers=3, wish="2")


def test_trials_on_gpus_only_count_the_processors_beside_them() -> None:
    mixed = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 16.0}]
    assert planned(mixed, wish="8").trial_resources == {"CPU": 0.5, "GPU": 0.125}
    crowded = [{"CPU": 4.0, "GPU": 8.0}, {"CPU": 32.0}]
    nested = planned(crowded, workers=8)
    assert 8 * nested.cpus_per_worker + nested.trial_resources["CPU"] <= 4


def free_cpus(nodes: Sequence[dict[str, float]], plan: Capacity) -> list[float] | None:
    """What is left of each node once all that runs at once is placed, if it can be.

    The drivers come first and all to one node, as Ray may well have it.
    """
    free = [node.get("CPU", 0) for node in nodes]
    if plan.workers > 1:
        largest = free.index(max(free))
        free[largest] -= plan.at_once * plan.trial_resources["CPU"]
    for _ in range(plan.at_once * plan.workers):
        places = [k for k, cpus in enumerate(free) if cpus + 1e-9 >= plan.cpus_per_worker]
        if not places:
            return None
        free[places[0]] -= plan.cpus_per_worker
    return free


@pytest.mark.parametrize("seed", range(100))
def test_all_that_is_planned_fits_on_the_nodes_at_once(seed: int) -> None:
    chance = random.Random(seed)
    nodes = [
        {"CPU": float(chance.choice((1, 2, 3, 8, 16))), "memory": 256.0 * GIB}
        for _ in range(chance.randint(1, 4))
    ]
    cpus = sum(node["CPU"] for node in nodes)
    workers = chance.randint(1, max(1, int(cpus)))
    wish = chance.choice(("auto", str(chance.randint(1, max(1, int(cpus / workers))))))
    plan = planned(nodes, workers, wish)
    assert free_cpus(nodes, plan) is not None, (nodes, plan)
    with_stream = planned(nodes, workers, wish, reader="ray-data")
    # A task of the stream finds a place, so that no trial waits for ever for its images.
    free = free_cpus(nodes, with_stream)
    assert free is not None
    assert max(free) >= 0.25, (nodes, with_stream)


def test_workers_share_the_cores() -> None:
    assert planned(LAPTOP).threads == 1
    assert planned(LAPTOP, wish="1").threads == 2
    assert planned(LAPTOP, workers=2).threads == 1
    assert planned(LAPTOP * 4, wish="4").threads == 2
    assert planned(LAPTOP, wish="4").threads == 1


def test_a_plan_says_what_it_is() -> None:
    assert str(planned(LAPTOP)) == "2 trials at once on CPUs"
    assert str(planned(GPUS, workers=4)) == "1 trial at once of 4 workers on GPUs"
