"""The model of training on many GPUs, and the page that shows its tables."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raygen.benchmarks import scaling
from raygen.benchmarks.scaling import Workload, all_reduce_seconds, buckets, estimate, workload
from raygen.config.run import PRESETS, RunConfig
from raygen.data.batch import Batch
from raygen.models import flops
from raygen.models.base import Metrics, Model, Step

PAGE = Path(__file__).parents[2] / "docs/scaling.md"
SMALL = Workload(batch=64, parameters={"network": 5_000_000}, image_flops=1e9)


class Line(Model):
    """One linear layer."""

    def __init__(self, config: RunConfig) -> None:
        network = nn.Linear(3 * 32 * 32, 10, bias=False)
        super().__init__(config, {"line": network}, averaged=())
        self.optimizers = {"line": torch.optim.SGD(network.parameters())}

    def update(self, batch: Batch, step: Step) -> Metrics:
        with self.autocast():
            loss = self.parallel["line"](batch.images.flatten(1)).sum()
        self.minimise("line", loss, step)
        return {}

    def validate(self, batch: Batch, number: int) -> Metrics:
        raise NotImplementedError

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        raise NotImplementedError


def test_parameters_and_flops_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    build: Any = Line
    monkeypatch.setattr(flops, "build_model", build)
    load = workload(PRESETS["dcgan-celeba"])
    assert load.parameters == {"line": 3072 * 10}
    assert load.gradient_bytes == 4 * 3072 * 10
    # A multiplication and an addition for each weight, forward and for the weights' gradient.
    assert load.image_flops == 2 * 2 * 3072 * 10


def test_the_flops_of_a_batch_are_those_of_its_images() -> None:
    config = PRESETS["dcgan-anime"].updated({"width": 0.25}, "test")
    half = workload(config.updated({"batch_size": 64}, "test"))
    assert half.image_flops == pytest.approx(workload(config).image_flops)


def test_a_ring_sends_almost_twice_the_bytes_through_its_narrowest_link() -> None:
    assert all_reduce_seconds([450e9], 2) == pytest.approx(20e-6 + 1)
    assert all_reduce_seconds([450e9], 8) == pytest.approx(20e-6 + 1.75)
    # Two nodes: the network, and one doubling.
    assert all_reduce_seconds([50e9, 25e9], 16) == pytest.approx(2 * 35e-6 + 1.875 * 1.5)
    assert all_reduce_seconds([0], 1024) == pytest.approx(20e-6 + 7 * 15e-6)


@pytest.mark.parametrize("size", [100, 2**20, 2**20 + 4, 26 * 2**20, 100 * 2**20])
def test_gradients_are_sent_in_the_parts_of_ddp(size: int) -> None:
    parts = buckets(size)
    assert sum(parts) == size
    assert parts[0] == min(size, 2**20)
    assert all(part == 25 * 2**20 for part in parts[1:-1])
    assert all(0 < part <= 25 * 2**20 for part in parts)


def test_an_all_reduce_hides_behind_the_backward_passes() -> None:
    few, many = estimate(SMALL, 1, 64), estimate(SMALL, 10_000, 64)
    assert few.all_reduce == many.all_reduce
    assert many.compute == 10_000 * few.compute
    assert few.exposed == pytest.approx(few.all_reduce - few.compute / 2)
    # All but the last part is hidden.
    assert many.exposed == pytest.approx(all_reduce_seconds(buckets(2e7)[-1:], 64))
    assert 0 < few.efficiency < 0.1
    assert 0.98 < many.efficiency < 1


@pytest.mark.parametrize("gpus", scaling.SIZES)
def test_the_least_batch_is_the_least(gpus: int) -> None:
    images = scaling.least_images(SMALL, gpus)
    assert estimate(SMALL, images, gpus).efficiency >= scaling.GOOD
    assert estimate(SMALL, images - 1, gpus).efficiency < scaling.GOOD


def test_a_batch_is_split_over_as_many_gpus_as_it_keeps_busy() -> None:
    gpus = scaling.most_gpus(Workload(6400, SMALL.parameters, SMALL.image_flops))
    assert gpus == 8
    assert scaling.most_gpus(Workload(1, SMALL.parameters, SMALL.image_flops)) == 1


def test_the_page_shows_the_tables_of_the_code() -> None:
    missing = [table for table in scaling.tables().split("\n\n") if table not in PAGE.read_text()]
    assert not missing, "docs/scaling.md: paste what `python jobs/bench.py scaling` prints"
