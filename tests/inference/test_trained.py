"""Trained models in use: drawn as in training, the same for the same seed, and refused if wrong."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    batch_of,
    build_any,
    damage,
    fails,
    save_checkpoint,
    save_run,
    scaled_images,
    step_of,
)
from torch import Tensor

import raygen
from raygen.config.families import VAEConfig
from raygen.config.run import ImageFormat, RunConfig
from raygen.core.errors import CheckpointError, UserError
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.data.images import fit_image
from raygen.data.pixels import as_images
from raygen.data.shards.manifest import MANIFEST, Manifest, write_shard
from raygen.data.sources.drawn_faces import Face, attributes_of, paint, sample_face
from raygen.data.splits import TRAIN, VALIDATION
from raygen.inference.model import TrainedModel, find_checkpoint
from raygen.models.base import Model
from raygen.training.checkpoint_index import Score
from raygen.training.run import CONFIG, RunFolder

pytestmark = pytest.mark.numeric

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def vaegan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    path = tmp_path_factory.mktemp("runs") / "vaegan"
    return path, save_run(path, "vaegan-anime", latent_size=8, schedule="1:1")


def test_a_loaded_model_draws_what_the_trained_one_draws(vaegan: tuple[Path, Model]) -> None:
    path, model = vaegan
    trained = raygen.load(str(path))
    assert (trained.step, trained.latent_shape, trained.image_size) == (2, (8,), (64, 64))
    codes = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(trained.decode(codes), model.decode(codes))
    real = scaled_images(5, 64, 64)
    assert torch.equal(trained.encode(real), model.encode(real)[0])
    assert torch.equal(trained.reconstruct(real), model.decode(model.encode(real)[0]))
    # The moving average, which differs from the weights as they are.
    plain = model.networks["decoder"].eval()
    assert not torch.allclose(trained.decode(codes), plain(codes))


def test_samples_follow_the_seed_and_begin_alike_for_any_count(
    vaegan: tuple[Path, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = raygen.load(str(vaegan[0]))
    samples = trained.sample(20, seed=7)
    assert samples.shape == (20, 3, 64, 64)
    assert samples.dtype == torch.float32
    assert samples.abs().max() <= 1
    assert torch.equal(samples, trained.sample(20, seed=7))
    torch.testing.assert_close(samples[:17], trained.sample(17, seed=7))
    assert not torch.allclose(samples, trained.sample(20, seed=8))
    assert trained.sample(0).shape == (0, 3, 64, 64)
    # Many images go through the networks in parts.
    monkeypatch.setattr("raygen.inference.model.AT_ONCE", 3)
    torch.testing.assert_close(trained.sample(20, seed=7), samples)


def test_models_without_an_encoder_and_images_of_other_sizes_are_refused(
    tmp_path: Path, vaegan: tuple[Path, Model]
) -> None:
    save_run(tmp_path / "dcgan", "dcgan-celeba")
    trained = raygen.load(str(tmp_path / "dcgan"))
    with pytest.raises(UserError, match="needs an encoder, which dcgan-celeba lacks"):
        trained.encode(scaled_images(1, 32, 32))
    with pytest.raises(UserError, match=r"vaegan-anime encodes \(N, 3, 64, 64\)"):
        raygen.load(str(vaegan[0])).reconstruct(scaled_images(1, 64, 32))


def test_checkpoints_are_chosen_by_name(tmp_path: Path) -> None:
    model = save_run(tmp_path, "dcgan-celeba")
    run = RunFolder(Folder.at(tmp_path))
    about = {"config": model.config.to_json()}
    for step, value in ((5, 1.0), (9, 7.0)):
        score = Score(value, "", 0)
        save_checkpoint(run.checkpoints, model, Position(step), about, 9, score)
    steps = [find_checkpoint(run, which) for which in ("last", "best", "2", 5)]
    assert steps == [9, 5, 2, 5]
    for wrong in ("3", "first", "-1"):
        with pytest.raises(UserError, match=f"--checkpoint {wrong}: must be .* kept: 2, 5, 9"):
            find_checkpoint(run, wrong)
    with pytest.raises(UserError, match=r"holds no config\.json"):
        raygen.load(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="has no checkpoint yet"):
        find_checkpoint(RunFolder(Folder.at(tmp_path / "empty")), "last")


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", "dcgan-celeba")
    place = tmp_path / "run/checkpoints/step-00000002"
    for name, options in (
        ("size 64x64", {"preset": "dcgan-anime"}),
        ("width 0.125", {"preset": "dcgan-celeba", "width": 0.125}),
    ):
        save_run(tmp_path / name, **options)
        other = tmp_path / name / "checkpoints/step-00000002"
        mixed = tmp_path / f"mixed {name}"
        (mixed / "checkpoints").mkdir(parents=True)
        (mixed / CONFIG).write_bytes((tmp_path / "run" / CONFIG).read_bytes())
        other.rename(mixed / "checkpoints/step-00000002")
        with pytest.raises(CheckpointError, match=f"was made with {name}, .* another run"):
            raygen.load(str(mixed))
    state = json.loads((place / "state.json").read_text())
    (place / "state.json").write_text(json.dumps(state | {"format_version": 2}))
    with pytest.raises(CheckpointError, match="checkpoint format 2, but this raygen reads"):
        raygen.load(str(tmp_path / "run"))
    (place / "state.json").write_text(json.dumps(state))
    damage(place / "generator_ema.safetensors")
    with pytest.raises(CheckpointError, match=r"generator_ema\.safetensors: damaged"):
        raygen.load(str(tmp_path / "run"))
    weights = place / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"generator\.safetensors: damaged"):
        raygen.load(str(tmp_path / "run"))


@pytest.mark.parametrize("preset", ["vaegan-anime", "dcgan-celeba"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], preset: str, value: float
) -> None:
    run = tmp_path / "run"
    model = save_run(run, preset)
    maker = "decoder" if preset == "vaegan-anime" else "generator"
    about = {"config": model.config.to_json()}

    def save(step: int, name: str) -> None:
        with torch.no_grad():
            next(model.networks[name].parameters()).fill_(value)
        save_checkpoint(Folder.at(run / "checkpoints"), model, Position(step), about, 3)

    # Nothing is drawn with it.
    save(3, "discriminator")
    assert raygen.load(str(run)).sample(2).isfinite().all()
    save(4, f"{maker}_ema")
    said = rf"step-00000004: a weight of the {maker} was not finite .*; use an earlier checkpoint"
    with pytest.raises(UserError, match=said):
        raygen.load(str(run))
    for job in ("sample", "export"):
        assert re.search(said, fails(capsys, job, run, "--out", tmp_path / "out"))
        assert not (tmp_path / "out").exists()
    assert raygen.load(str(run), 3).sample(2).isfinite().all()


def test_what_is_not_finite_is_not_passed_on(vaegan: tuple[Path, Model]) -> None:
    trained = raygen.load(str(vaegan[0]))
    with torch.no_grad():
        for name in ("encoder", "decoder"):
            for parameter in trained.model.ema(name).parameters():
                parameter.mul_(1e30)
    real = scaled_images(2, 64, 64)
    uses: list[tuple[Callable[[], Tensor], str]] = [
        (lambda: trained.sample(2), "images"),
        (lambda: trained.encode(real), "codes"),
        (lambda: trained.reconstruct(real), "codes"),
    ]
    for use, what in uses:
        with pytest.raises(UserError, match=f"step 2: makes {what} that are not finite"):
            use()
    # Whoever gives such codes gets what comes of them.
    assert trained.decode(torch.full((1, 8), torch.nan)).isnan().any()


def test_ray_is_neither_needed_nor_started(vaegan: tuple[Path, Model]) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        f"import raygen; print(raygen.load({str(vaegan[0])!r}).sample(3, seed=1).sum().item())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True
    )
    expected = raygen.load(str(vaegan[0])).sample(3, seed=1).sum().item()
    assert float(done.stdout) == pytest.approx(expected, rel=1e-4)


SMALL_FACES = ImageFormat(64, 64, 150)
WITHOUT: dict[str, dict[str, Any]] = {
    "Blond_Hair": {"hair_name": "red", "hair_colour": (160, 70, 34)},
    "Pale_Skin": {"pale": False, "skin": (238, 200, 172)},
}
"""Parameters that take an attribute away from a drawn face that has it."""


def drawn(faces: list[Face]) -> np.ndarray:
    """(N, 64, 64, 3) uint8."""
    return np.stack([fit_image(paint(face), SMALL_FACES) for face in faces])


def write_faces(path: Path, faces: list[Face], names: tuple[str, ...]) -> np.ndarray:
    """A dataset of drawn faces with some of their attributes. Returns: their pixels."""
    pixels, folder = drawn(faces), Folder.at(path)
    has = np.array([[attributes_of(face)[name] for name in names] for face in faces])
    values = np.where(has.reshape(len(faces), -1), 1, -1)
    ids = [str(k) for k in range(len(faces))]
    file = write_shard(folder, "train-00000.parquet", pixels, ids, values)
    splits = {TRAIN: (file,), VALIDATION: ()}
    folder.write_json(MANIFEST, Manifest(64, 64, names, splits, {}, 0, ()).to_json())
    return pixels


@pytest.mark.slow
def test_attribute_vectors_move_what_the_attributes_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A small VAE learns drawn faces, of which any can be drawn again with one attribute changed.
    options = VAEConfig(latent_size=32, ema_images=2000)
    run = RunConfig("small", family="vae:VAE", size=SMALL_FACES.size, width=0.25, model=options)
    pixels = write_faces(tmp_path, [sample_face(0, k) for k in range(300)], tuple(WITHOUT))
    model = build_any(run)
    random = np.random.default_rng(0)
    for k in range(100):
        real = as_images(pixels[random.integers(0, len(pixels), 32)])
        model.update(batch_of(real), step_of(k, 32))
    trained = TrainedModel(model, 100)
    data = Folder.at(tmp_path)
    told: list[tuple[int, int]] = []
    vectors = {
        name: trained.attribute_vector(data, name, progress=lambda *far: told.append(far))
        for name in WITHOUT
    }
    assert told[-1] == (300, 300)
    for name, changes in WITHOUT.items():
        faces = [sample_face(1, k) for k in range(150)]
        having = [face for face in faces if attributes_of(face)[name]][:12]
        lacking = as_images(drawn([replace(face, **changes) for face in having]))
        truth = (as_images(drawn(having)) - lacking).flatten(1)

        def likeness(vector: Tensor, lacking: Tensor = lacking, truth: Tensor = truth) -> float:
            strip = trained.vary(lacking, vector, torch.tensor([0.0, 1.0]))
            before, after = strip.unflatten(0, (-1, 2)).flatten(2).unbind(1)
            return float(F.cosine_similarity(after - before, truth).mean())

        [other] = [vectors[other] for other in WITHOUT if other != name]
        assert likeness(vectors[name]) > 0.4, name
        assert likeness(other) < likeness(vectors[name]), name
        assert likeness(-vectors[name]) < 0, name


def test_attributes_that_the_data_lacks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vaegan: tuple[Path, Model]
) -> None:
    trained = raygen.load(str(vaegan[0]))
    faces = [face for face in (sample_face(0, k) for k in range(60)) if attributes_of(face)["Male"]]
    write_faces(tmp_path, faces[:6], ("Male", "Smiling"))
    data = Folder.at(tmp_path)
    with pytest.raises(UserError, match="--attribute Hat: .* lacks it; it has Male, Smiling"):
        trained.attribute_vector(data, "Hat")
    with pytest.raises(UserError, match="--attribute Male: no image lacks it"):
        trained.attribute_vector(data, "Male")
    assert trained.attribute_vector(data, "Smiling").shape == (8,)
