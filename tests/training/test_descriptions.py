"""TensorBoard says of each metric what it means."""

import pytest

from raygen.config import PRESETS
from raygen.training.descriptions import DESCRIPTIONS, description
from raygen.tuning.objective import logged_metrics

VARIANTS = [
    ("vae-celeba", {}),
    ("dcgan-celeba", {}),
    ("dcgan-anime", {"adversarial_loss": "wasserstein-gp"}),
    ("vaegan-anime", {"objective": "larsen"}),
    ("vaegan-anime", {"objective": "article", "adversarial_loss": "wasserstein-gp"}),
]


@pytest.mark.parametrize(("preset", "options"), VARIANTS)
def test_every_metric_has_a_description(preset: str, options: dict[str, str]) -> None:
    config = PRESETS[preset].run.updated(options, "test")
    assert [tag for tag in logged_metrics(config) if not description(tag)] == []


def test_every_description_is_of_a_metric() -> None:
    logged = set()
    for preset, options in VARIANTS:
        logged |= logged_metrics(PRESETS[preset].run.updated(options, "test"))
    known = logged | {tag.replace("validation/", "loss/") for tag in logged}
    assert set(DESCRIPTIONS) <= known


def test_a_metric_of_a_family_of_ones_own_has_none() -> None:
    assert description("loss/own") == description("validation/own") == description("own") == ""
