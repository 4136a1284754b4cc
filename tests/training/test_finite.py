"""Finding out which loss or weight stopped being finite, and when."""

from pathlib import Path

import pytest
import torch
from helpers import CPU, run_processes
from torch import nn

from raygen.training.finite import LossWatch, NotFinite, check_weights
from raygen.training.workers import Workers

pytestmark = pytest.mark.numeric

LOSSES = {"loss/a": "first", "loss/b": "second"}


def metrics(a: float, b: float) -> dict[str, torch.Tensor]:
    return {"loss/a": torch.tensor(a), "loss/b": torch.tensor(b), "other": torch.tensor(0.0)}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_bad_step_is_told(bad: float) -> None:
    watch = LossWatch(LOSSES, CPU)
    watch.add(metrics(1, 2), 1)
    watch.check(Workers())
    watch.add(metrics(1, bad), 2)
    watch.add(metrics(bad, bad), 3)
    watch.add(metrics(1, 2), 4)
    with pytest.raises(NotFinite, match="loss/b of the second was not finite at step 2"):
        watch.check(Workers())


def test_a_loss_that_takes_no_part_in_a_step_is_fine() -> None:
    watch = LossWatch(LOSSES, CPU)
    watch.add({"loss/a": torch.tensor(1.0)}, 1)
    watch.check(Workers())
    watch.add({"loss/b": torch.tensor(float("nan"))}, 2)
    with pytest.raises(NotFinite, match="loss/b"):
        watch.check(Workers())


def test_weights_and_statistics_are_checked() -> None:
    networks = {"fine": nn.Linear(2, 2), "other": nn.BatchNorm1d(3)}
    check_weights(networks, 7)
    statistics = dict(networks["other"].named_buffers())["running_mean"]
    statistics[1] = float("nan")
    with pytest.raises(NotFinite, match="a weight of the other was not finite at step 7"):
        check_weights(networks, 7)


def on_worker(rank: int, folder: str) -> None:
    watch = LossWatch(LOSSES, CPU)
    watch.add(metrics(1, float("nan") if rank == 1 else 2), 5)
    try:
        watch.check(Workers(rank, 2))
    except NotFinite as error:
        Path(folder, str(rank)).write_text(str(error))


@pytest.mark.slow
def test_all_workers_learn_of_it(tmp_path: Path) -> None:
    run_processes(2, on_worker, str(tmp_path))
    told = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert told == ["loss/b of the second was not finite at step 5"] * 2
