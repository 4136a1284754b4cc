"""What trials are compared by, and of how many samples."""

from pathlib import Path
from unittest import mock

import pytest
from helpers import tiny_config, write_dataset

from raygen.config.run import PRESETS
from raygen.core.errors import UserError
from raygen.core.progress import Silence
from raygen.core.storage import Folder
from raygen.evaluation import domain
from raygen.evaluation.domain import AttributeClassifier, Domain
from raygen.evaluation.features import random_vgg
from raygen.evaluation.objective import Objective
from raygen.models.flops import sampling_flops, training_flops
from raygen.tuning import criterion
from raygen.tuning.criterion import FEWEST, MOST, choose_criterion, extracting_flops, samples_for

DCGAN = PRESETS["dcgan-celeba"]


def test_a_sample_costs_less_than_training_on_an_image() -> None:
    # Forward through the generator alone, against both networks there and back.
    for preset in PRESETS.values():
        assert 0.05 < sampling_flops(preset) / training_flops(preset) < 0.34
    # Twice the width is four times the products of most layers.
    narrow, wide = (sampling_flops(DCGAN.updated({"width": w}, "")) for w in (0.5, 1.0))
    assert 3 < wide / narrow < 4.01


def test_an_extractor_s_operations_do_not_depend_on_the_images_size() -> None:
    vgg = random_vgg()
    # By hand: 3 x 3 convolutions between poolings, for a side of 64 and one of 32, and projections.
    products = 0
    for side, channels in ((64, 3), (32, 3)):
        size, before = side, channels
        for filters in ((16,), (32,), (64, 64), (128, 128), (128, 128)):
            for count in filters:
                products += 9 * before * count * size**2
                before = count
            size //= 2
        products += before * size**2 * 64
    assert extracting_flops(vgg, 64) == pytest.approx(2 * products)
    assert extracting_flops(vgg, 32) == extracting_flops(vgg, 64)


def test_longer_trials_are_measured_on_more_samples() -> None:
    vgg = random_vgg()
    counts = [samples_for(DCGAN, 10**power, vgg) for power in range(3, 8)]
    assert counts[0] == FEWEST
    assert counts[-1] == MOST
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    for images, count in zip((10**5, 10**6), counts[2:4], strict=True):
        each = sampling_flops(DCGAN) + extracting_flops(vgg, 32)
        share = 9 * count * each / (images * training_flops(DCGAN))
        assert count in (FEWEST, MOST) or 0.02 < share <= 0.04
    with mock.patch.object(criterion, "training_flops", side_effect=NotImplementedError):
        assert samples_for(DCGAN, 10**7, vgg) == 512


def test_without_attributes_images_are_compared_by_a_network_that_knows_none(
    tmp_path: Path,
) -> None:
    manifest, _ = write_dataset(tmp_path, (8,), (4,), size=32)
    there = Folder.at(tmp_path), manifest, Silence(), 0.0
    chosen = choose_criterion(Objective("quality/fd"), tiny_config(), 100, *there)
    assert (chosen.objective.metric, chosen.extractor.name) == (
        "quality/fd_random-vgg",
        "random-vgg",
    )
    swd = choose_criterion(Objective("quality/swd"), tiny_config(quality_samples=9), 100, *there)
    assert (swd.objective.metric, swd.samples) == ("quality/swd", 9)
    with pytest.raises(UserError, match="has no attributes.*use quality/variety_random-vgg"):
        choose_criterion(Objective("quality/variety_domain", "max"), tiny_config(), 100, *there)


def test_with_attributes_the_dataset_s_own_network_does(tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, (8,), (4,), size=32)
    own = Domain(domain._extractor(AttributeClassifier(2, 32).eval()), ("a", "b"), 1.0, 0.5)
    there = Folder.at(tmp_path), manifest, Silence(), 0.0
    with mock.patch.object(criterion, "domain_extractor", return_value=own):
        for metric in ("quality/fd", "quality/fd_domain"):
            chosen = choose_criterion(Objective(metric), tiny_config(), 100, *there)
            assert chosen.objective.metric == "quality/fd_domain"
            assert chosen.extractor is own.extractor
        # What needs no features needs no training of an extractor either.
        chosen = choose_criterion(Objective("quality/swd"), tiny_config(), 100, *there)
        assert chosen.extractor.name == "random-vgg"
