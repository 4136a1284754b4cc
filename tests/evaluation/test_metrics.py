"""The registry of metrics: what it says is logged is what is logged, and all of it is explained."""

from typing import Any

import pytest
from helpers import batch_of, build_any, scaled_images, small_config, step_of

from raygen.evaluation.metrics import (
    METRICS,
    in_features,
    logged_tags,
    metric_help,
    metric_of,
    progress_text,
)

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("vae-celeba", {}),
    ("dcgan-celeba", {}),
    ("dcgan-anime", {"adversarial_loss": "wasserstein-gp"}),
    ("vaegan-anime", {"objective": "larsen"}),
    ("vaegan-anime", {"objective": "article", "adversarial_loss": "wasserstein-gp"}),
]
MEASURED_BY_THE_TRAINING = {
    "quality/fd_domain",
    "quality/fd_random-vgg",
    "quality/swd",
    "quality/variety_domain",
    "quality/variety_random-vgg",
    "throughput/data_wait_fraction",
    "throughput/images_per_second",
}


@pytest.mark.parametrize(("preset", "options"), VARIANTS)
def test_what_a_family_says_it_logs_is_what_it_logs(preset: str, options: dict[str, Any]) -> None:
    if preset != "vae-celeba":
        # Every network steps at once.
        options = options | {"schedule": "1:1"}
    model = build_any(small_config(preset, **options))
    batch = batch_of(scaled_images(4, *model.image_shape[1:]))
    found = set(model.update(batch, step_of(0, 4))) | set(model.validate(batch, 0))
    assert found == set(model.config.model.metric_tags)
    assert set(logged_tags(model.config.model)) == found | MEASURED_BY_THE_TRAINING
    assert set(model.losses) <= found
    best_by = in_features(model.config.model.best_by, "domain")
    assert best_by in logged_tags(model.config.model)
    assert [tag for tag in logged_tags(model.config.model) if not metric_of(tag).description] == []


def test_every_entry_is_of_a_metric_that_some_run_logs() -> None:
    tags = {
        tag
        for preset, options in VARIANTS
        for tag in logged_tags(small_config(preset, **options).model)
    }
    known = tags | {tag.replace("validation/", "loss/") for tag in tags}
    assert set(METRICS) <= known
    assert all(tag in metric_help() for tag in METRICS)


def test_a_loss_on_validation_images_is_explained_by_the_loss() -> None:
    metric = metric_of("validation/mse")
    assert metric.name == "validation MSE"
    assert metric.description.startswith("On validation images: mean squared error")


def test_a_metric_of_a_family_of_ones_own_is_called_by_its_tag() -> None:
    for tag in ("loss/own", "validation/own", "own"):
        assert (metric_of(tag).name, metric_of(tag).description) == (tag, "")


def test_the_progress_line_shows_what_it_knows_in_the_registry_s_order() -> None:
    values = {"quality/swd": 21.44, "loss/own": 1.0, "loss/generator": 2.5, "loss/total": 0.1}
    assert progress_text(values) == " - loss 0.1 - G loss 2.5 - SWD 21.4"
    assert progress_text({}) == ""
