"""How many trials share a GPU is decided by the memory that a training takes of it."""

from collections.abc import Callable
from typing import Any

import pytest
from helpers import tiny_config

from raygen.config.domains import Choice, Range, Space
from raygen.config.run import RunConfig
from raygen.core.errors import UserError
from raygen.core.progress import Silence
from raygen.measuring.dispatch import task
from raygen.tuning import gpu_sharing
from raygen.tuning.gpu_sharing import OTHER_MEMORY, largest, sharing, trials_per_gpu

GIB = 2**30
GPUS = [{"CPU": 16.0, "GPU": 2.0, "accelerator_type:A10G": 1.0}, {"CPU": 4.0}]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that the GPU has; each training takes four GiB for each unit of its width."""
    whole = [24 * GIB]

    def task_without_gpu(function: Callable[..., Any], gpus: float) -> Any:
        assert (function, gpus) == (gpu_sharing._memory, 1)
        size = whole[0]

        def memory(run: RunConfig) -> tuple[int, int]:
            if run.width > 4:
                raise UserError("a step takes more memory than there is")
            return int(4 * GIB * run.width), size

        return task(memory, 0)

    monkeypatch.setattr(gpu_sharing, "task", task_without_gpu)
    return whole


def test_as_many_share_a_gpu_as_its_memory_holds() -> None:
    assert sharing(4 * GIB, 80 * GIB) == 13
    assert sharing(4 * GIB, 8 * GIB) == 1
    assert sharing(40 * GIB, 24 * GIB) == 1
    # A tenth is left free.
    needed = int(GIB + OTHER_MEMORY)
    assert sharing(GIB, 2 * needed) == 1
    assert sharing(GIB, int(2.3 * needed)) == 2


def test_the_largest_settings_of_the_search_decide() -> None:
    run = tiny_config(batch_size=16, width=0.05)
    space: Space = {
        "batch_size": Choice((8, 64, 32)),
        "width": Range(0.03, 0.1),
        "lr_g": Range(0.1, 0.2),
    }
    found = largest(run, space)
    assert (found.batch_size, found.width, found.seed) == (64, 0.1, run.seed)
    assert found.explicit.to_json()["lr_g"] == run.explicit.to_json()["lr_g"]
    assert largest(run, {}) == run


@pytest.mark.slow
def test_the_run_that_takes_the_most_memory_decides(ray_session: str, measured: list[int]) -> None:
    small, wide = tiny_config(width=0.1), tiny_config(width=1.0)
    assert trials_per_gpu([small], 16, GPUS, Silence()) == 4
    assert trials_per_gpu([small, wide], 16, GPUS, Silence()) == 3
    measured[0] = 6 * GIB
    assert trials_per_gpu([small, wide], 16, GPUS, Silence()) == 1
    with pytest.raises(UserError, match="more memory than there is"):
        trials_per_gpu([small, tiny_config(width=5.0)], 16, GPUS, Silence())


@pytest.mark.parametrize(
    "nodes",
    [
        [{"CPU": 2.0}],
        # Which of the two has less memory is not known.
        [*GPUS, {"CPU": 16.0, "GPU": 1.0, "accelerator_type:T4": 1.0}],
        # Trials would wait for a CPU.
        [{"CPU": 3.0, "GPU": 2.0}],
    ],
)
def test_nothing_is_shared_where_that_may_not_fit(nodes: list[dict[str, float]]) -> None:
    assert trials_per_gpu([tiny_config()], 16, nodes, Silence()) == 1
    # There is a GPU for each.
    assert trials_per_gpu([tiny_config()], 2, GPUS, Silence()) == 1
