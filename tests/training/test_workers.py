"""What workers do together, in real process groups."""

from pathlib import Path

import pytest
import torch
from helpers import run_processes
from torch import nn

from raygen.training.workers import Workers

pytestmark = pytest.mark.numeric


def together(rank: int, folder: str) -> None:
    workers = Workers(rank, 3)
    assert workers.is_first == (rank == 0)
    means = workers.all_reduce_mean([torch.tensor(float(rank)), torch.tensor(3.0 * rank)])
    assert means == [1.0, 3.0]
    assert workers.broadcast([7 + rank, -rank]) == [7, 0]
    assert workers.all_reduce_sum(torch.tensor([[1.0, rank]])).tolist() == [[3.0, 3.0]]
    assert workers.all_reduce_min(torch.tensor([5 - rank, rank])) == [3, 0]
    network = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm1d(1))
    for module in network:
        assert isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)
        assert module.running_mean is not None
        module.running_mean.fill_(rank)
    workers.average_buffers([network])
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            assert (buffer == 1).all()
    Path(folder, str(rank)).touch()


@pytest.mark.slow
def test_three_workers_average_and_agree(tmp_path: Path) -> None:
    run_processes(3, together, str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 3


def test_one_worker_alone_needs_no_process_group() -> None:
    workers = Workers()
    assert workers.all_reduce_mean([torch.tensor(2.0)]) == [2.0]
    assert workers.broadcast([3]) == [3]
    assert workers.all_reduce_sum(torch.tensor([4.0])).tolist() == [4.0]
    assert workers.all_reduce_min(torch.tensor([4])) == [4]
    network = nn.BatchNorm2d(2)
    workers.average_buffers([network])
    assert network.running_mean is not None
    assert (network.running_mean == 0).all()
