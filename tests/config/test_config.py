"""What a run is, and what it cannot be."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from raygen.config.families import ModelConfig, VAEConfig, VAEGANConfig
from raygen.config.fields import Policy, having
from raygen.config.run import DRAWN, PRESETS, RESUMABLE_CHANGES, ImageFormat, RunConfig
from raygen.core.errors import UserError
from raygen.training.placement import check_batch, most_workers

RUN = PRESETS["dcgan-celeba"]


ADAM = {
    "beta1": 0.5,
    "beta2": 0.999,
    "adversarial_loss": "non-saturating",
    "spectral_norm": False,
}


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (
            "vae-celeba",
            {
                "batch_size": 32,
                "latent_size": 512,
                "optimizer": "rmsprop",
                "lr": 1e-3,
                "kl_weight": 1e-4,
            },
        ),
        (
            "dcgan-celeba",
            ADAM
            | {
                "batch_size": 128,
                "lr_d": 1e-3,
                "lr_g": 1e-4,
                "label_smoothing": 0.1,
                "latent_size": 100,
                "schedule": "1:1",
                "half_batches": False,
            },
        ),
        (
            "dcgan-anime",
            ADAM
            | {
                "batch_size": 128,
                "lr_d": 1e-4,
                "lr_g": 1e-4,
                "label_smoothing": 0.0,
                "latent_size": 128,
                "schedule": "1:1",
                "half_batches": True,
            },
        ),
        (
            "vaegan-anime",
            ADAM
            | {
                "batch_size": 256,
                "lr_d": 2e-4,
                "lr_g": 1e-3,
                "lr_vae": 1e-3,
                "label_smoothing": 0.0,
                "latent_size": 256,
                "schedule": "two-phase",
                "objective": "larsen",
                "half_batches": True,
            },
        ),
    ],
)
def test_presets_are_the_reference_systems(preset: str, expected: dict[str, Any]) -> None:
    values = PRESETS[preset].explicit.to_json()
    assert {name: values[name] for name in expected} == expected
    assert values["preset"] == preset


CRITIC = {"schedule": "5:1", "beta1": 0.0, "beta2": 0.9, "lr_g": 1e-4, "lr_d": 1e-4}
"""What Gulrajani et al. 2017 train with."""


def chosen(config: RunConfig, *names: str) -> dict[str, Any]:
    values = config.explicit.to_json()
    return {name: values[name] for name in names or CRITIC}


@pytest.mark.parametrize("preset", ["dcgan-celeba", "dcgan-anime", "vaegan-anime"])
def test_wasserstein_gp_has_defaults_of_its_own(preset: str) -> None:
    plain = PRESETS[preset]
    critic = plain.updated({"adversarial_loss": "wasserstein-gp"}, "test")
    assert chosen(critic) == CRITIC
    assert chosen(plain.updated({"adversarial_loss": "hinge"}, "test")) == chosen(plain)
    assert chosen(plain)["beta2"] == 0.999
    # The other way round, too.
    assert chosen(critic.updated({"adversarial_loss": "least-squares"}, "test")) == chosen(plain)
    assert plain.model.left_open >= CRITIC.keys()
    assert not plain.explicit.model.left_open
    # A VAE-GAN's encoder keeps its objective's.
    if preset == "vaegan-anime":
        assert chosen(critic, "lr_vae") == {"lr_vae": 1e-3}
    assert not critic.is_two_phase


@pytest.mark.parametrize(
    "told",
    [
        {"beta1": 0.5},
        {"beta2": 0.999},
        {"beta1": 0.0, "beta2": 0.0},
        {"schedule": "1:1"},
        {"schedule": "two-phase"},
        {"lr_g": 1e-3, "lr_d": 2e-4},
    ],
)
def test_what_a_user_says_counts_for_wasserstein_gp_too(told: dict[str, Any]) -> None:
    critic = RUN.updated({"adversarial_loss": "wasserstein-gp"} | told, "test")
    assert chosen(critic) == CRITIC | told
    # Also after a detour through a file.
    again = RunConfig.from_json(json.loads(json.dumps(critic.to_json())), "test")
    assert again == critic
    assert chosen(again.updated({"adversarial_loss": "hinge"}, "test")) == chosen(RUN) | told


def test_runs_from_before_beta2_keep_what_they_were_trained_with() -> None:
    saved = RUN.explicit.to_json() | {"adversarial_loss": "wasserstein-gp"}
    del saved["beta2"], saved["own_lr_d"]
    expected = {"schedule": "1:1", "beta1": 0.5, "beta2": 0.999, "lr_g": 1e-4, "lr_d": 1e-3}
    assert chosen(RunConfig.from_json(saved, "config.json")) == expected
    # A file that a user wrote says nothing of what it does not name.
    file = {"adversarial_loss": "wasserstein-gp", "beta1": 0.5, "steps": 7}
    assert chosen(RunConfig.from_json(file, "mine.json")) == CRITIC | {"beta1": 0.5}


@pytest.mark.parametrize("name", ["beta1", "beta2"])
@pytest.mark.parametrize("value", [1.0, -0.5, -2.0, float("nan")])
def test_decays_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(
        UserError, match=rf"--{name} .*: must be in \[0, 1\), or -1 for the default"
    ):
        replace(RUN, model=replace(RUN.model, **{name: value}))  # type: ignore[arg-type]


def test_presets_have_the_reference_systems_images_and_lengths() -> None:
    def length(preset: str, images: int, **options: Any) -> int:
        run = PRESETS[preset].updated({"data": "somewhere"} | options, "test")
        return run.total_steps(images)

    images = {name: preset.image for name, preset in PRESETS.items()}
    assert images == {
        "vae-celeba": ImageFormat(218, 178),
        "dcgan-celeba": ImageFormat(32, 32, 150),
        "dcgan-anime": ImageFormat(64, 64),
        "vaegan-anime": ImageFormat(64, 64),
    }
    assert length("vae-celeba", 162_079) == 28_000
    assert length("dcgan-celeba", 162_079) == 3 * 162_079 // 128
    # The article's epochs have as many iterations as batches of 128 fit into the images, although
    # only half of each comes from the dataset; those that a user asks for are passes over it.
    assert length("dcgan-anime", 20_000) == 20 * 156 == 3_120
    assert length("dcgan-anime", 20_000, half_batches=False) == 3_120
    assert length("dcgan-anime", 20_000, batch_size=64) == 20 * 312
    assert length("dcgan-anime", 20_000, epochs=20.0) == 20 * 20_000 // 64
    assert length("dcgan-anime", 100) == 20 * 100 // 128
    assert length("dcgan-anime", 3_200, data=DRAWN) == 4 * 3_200 // 64
    assert length("dcgan-anime", 19_000, schedule="two-phase") == 4_000
    assert length("vaegan-anime", 19_000) == 4_000
    assert length("vaegan-anime", 19_000, epochs=2.0) == 2 * 19_000 // 256
    assert length("vae-celeba", 3_200, data=DRAWN) == 4 * 3_200 // 32


def test_updates_of_each_network_are_known_from_schedule_and_steps() -> None:
    def updates(preset: str, steps: int, total: int, **options: Any) -> dict[str, int]:
        return PRESETS[preset].updated(options, "test").updates(steps, total)

    assert updates("vae-celeba", 7, 10) == {"encoder": 7, "decoder": 7}
    assert updates("dcgan-anime", 3_120, 3_120) == {"generator": 3_120, "discriminator": 3_120}
    two_phase = {"generator": 2_500, "discriminator": 2_500}
    assert updates("dcgan-anime", 4_000, 4_000, schedule="two-phase") == two_phase
    critic = {"adversarial_loss": "wasserstein-gp"}
    assert updates("dcgan-celeba", 50, 99, **critic) == {"generator": 10, "discriminator": 50}
    vaegan = {"encoder": 2_500, "decoder": 2_500, "discriminator": 2_500}
    assert updates("vaegan-anime", 4_000, 4_000) == vaegan
    article = updates("vaegan-anime", 4_000, 4_000, objective="article")
    # The decoder steps as generator and as part of the VAE.
    assert article == vaegan | {"decoder": 5_000}
    # A family that says nothing of turns updates all that it has in each step.
    assert ModelConfig().updates(5, 10) == {"networks": 5}


def test_half_batches_need_an_even_batch() -> None:
    with pytest.raises(UserError, match="--batch-size 127: must be even"):
        PRESETS["dcgan-anime"].updated({"batch_size": 127}, "test")
    odd = PRESETS["dcgan-anime"].updated({"batch_size": 127, "half_batches": False}, "test")
    assert odd.step_images == 127


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_survives_json(preset: str) -> None:
    run = PRESETS[preset].updated({"width": 0.5, "latent_size": 7}, "test")
    assert RunConfig.from_json(json.loads(json.dumps(run.to_json())), "test") == run


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
        ("num_workers", "-1"),
        ("seed", -1),
        ("seed", 2**64),
        ("steps", 10**18),
        ("epochs", float("inf")),
        ("batch_size", 10**9),
        ("num_workers", str(10**9 - 1)),
        ("sample_count", 10**6),
        ("drawn_count", 10**9),
        ("checkpoint_images", 10**30),
        ("max_failures", 10**30),
        ("width", float("nan")),
        ("width", 0.0),
        ("keep", 0),
        ("drawn_count", 3),
        ("precision", "fp8"),
        ("on_nan", "pray"),
        ("sample_count", 0),
        ("validate_images", -1),
        ("validation_count", 0),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}: must be"):
        replace(RUN, **{name: value})


@pytest.mark.parametrize(
    ("preset", "name", "value"),
    [
        ("dcgan-celeba", "lr_g", float("inf")),
        ("dcgan-celeba", "gradient_penalty", float("inf")),
        ("dcgan-celeba", "ema_images", 10**30),
        ("vae-celeba", "kl_weight", float("inf")),
        ("vae-celeba", "lr", float("nan")),
        ("vaegan-anime", "gamma", float("inf")),
        ("vaegan-anime", "lr_vae", float("inf")),
    ],
)
def test_values_of_models_out_of_range_are_refused(preset: str, name: str, value: Any) -> None:
    run = PRESETS[preset]
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} .*: must be"):
        replace(run, model=replace(run.model, **{name: value}))


def test_more_epochs_than_any_run_has_are_refused() -> None:
    with pytest.raises(UserError, match="--epochs 1e.15: must be 1,000,000,000 steps at most"):
        replace(RUN, epochs=1e15).total_steps(1000)


def test_batch_norm_of_codes_needs_two_images_for_each_worker() -> None:
    vae = PRESETS["vae-celeba"]
    with pytest.raises(UserError, match="--batch-size 1: leaves 1 image for each of 1 worker, but"):
        replace(vae, batch_size=1)
    with pytest.raises(UserError, match="--batch-size 8: leaves 1 image for each of 8 workers"):
        replace(vae, batch_size=8, num_workers="8")
    # As many workers as there are would have too few, where it is not said how many.
    assert most_workers(replace(vae, batch_size=8), 8) == 4
    with pytest.raises(UserError, match="leaves 1 image for each of 8 workers"):
        check_batch(replace(vae, batch_size=8), 8)
    # Synchronised over all workers, their images count together.
    replace(vae, batch_size=8, num_workers="8", sync_bn=True)
    replace(RUN, batch_size=1, num_workers="1")


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
    with pytest.raises(UserError, match="holds 64x64 images, but dcgan-celeba trains on 32x32"):
        RUN.check_images(64, 64)


def test_when_an_option_may_change_is_declared_with_it() -> None:
    resumable, fixed = (having(RunConfig, p) for p in (Policy.RESUMABLE, Policy.NOT_SEARCHED))
    assert (
        {"data", "steps", "epochs", "num_workers", "keep", "reader"}
        < resumable
        == RESUMABLE_CHANGES
    )
    assert fixed == {"preset", "family", "size", "drawn_count"}
    # These decide what is learnt.
    assert not resumable & {"batch_size", "seed", "width", "precision", "sync_bn", *fixed}
    changeable = having(VAEGANConfig, Policy.CHANGEABLE)
    assert {
        "lr_g",
        "lr_d",
        "lr_vae",
        "beta1",
        "beta2",
        "gamma",
        "schedule",
        "ema_images",
    } < changeable
    # These decide the networks, or what the optimizers remember.
    assert not changeable & {"latent_size", "spectral_norm", "adversarial_loss", "objective"}
    assert having(VAEConfig, Policy.CHANGEABLE) == {"lr", "kl_weight", "ema_images"}
