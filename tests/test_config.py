"""What a run is, and what it cannot be."""

from dataclasses import fields, replace
from typing import Any

import pytest

from raygen.config import DRAWN, PRESETS, ImageFormat, RunConfig
from raygen.errors import UserError

RUN = PRESETS["dcgan-celeba"].run


def test_the_preset_is_the_reference_system() -> None:
    values = RUN.to_json()
    expected = {
        "batch_size": 128,
        "lr_d": 1e-3,
        "lr_g": 1e-4,
        "beta1": 0.5,
        "label_smoothing": 0.1,
        "latent_size": 100,
    }
    assert {name: values[name] for name in expected} == expected
    assert PRESETS["dcgan-celeba"].image == ImageFormat(32, 32, 150)
    assert replace(RUN, data="celeba").total_steps(162_079) == 3 * 162_079 // 128


def test_every_option_has_a_default_that_can_be_written_as_json() -> None:
    names = {f.name for f in fields(RunConfig)} - {"model"} | {f.name for f in fields(RUN.model)}
    assert set(RUN.to_json()) == names
    assert all(isinstance(value, str | int | float) for value in RUN.to_json().values())


def test_the_length_of_a_run() -> None:
    assert replace(RUN, steps=7).total_steps(10) == 7
    assert replace(RUN, epochs=2.5, batch_size=10).total_steps(100) == 25
    assert replace(RUN, data=DRAWN, batch_size=10).total_steps(100) == 40
    with pytest.raises(UserError, match="make no full batch of 128"):
        replace(RUN, epochs=1).total_steps(100)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("epochs", -0.5),
        ("epochs", float("nan")),
        ("batch_size", 0),
        ("num_workers", -1),
        ("seed", -1),
        ("width", 0.0),
        ("keep", 0),
        ("drawn_count", 3),
        ("precision", "fp8"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}: must be"):
        replace(RUN, **{name: value})


def test_image_sizes_as_users_write_them() -> None:
    assert ImageFormat.parse("32") == ImageFormat(32, 32, 150)
    assert ImageFormat.parse("218x178") == ImageFormat(218, 178, 0)
    assert ImageFormat.parse("64x64", 0) == ImageFormat(64, 64, 0)
    for size in ("", "x", "32x", "x32", "-3", "3.5", "1x2x3"):
        if size != "32x":
            with pytest.raises(UserError, match="--size"):
                ImageFormat.parse(size)


def test_images_of_another_size_are_refused() -> None:
    RUN.check_images(32, 32)
    with pytest.raises(UserError, match="holds 64x64 images, but dcgan-celeba is made for 32x32"):
        RUN.check_images(64, 64)
