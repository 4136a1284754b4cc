"""What TensorBoard's projector will find."""

from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from helpers import build, small_config
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from raygen.config.run import PRESETS
from raygen.core.storage import Folder
from raygen.data.pixels import as_images
from raygen.data.prepare.parts import Target
from raygen.data.prepare.prepare import prepare
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import HeldOut
from raygen.data.sources.drawn import DrawnFaces
from raygen.data.splits import VALIDATION
from raygen.models.vae import VAE
from raygen.tensorboard.projector import Codes, codes_of, thumbnails, write_projector


def read(run: Path) -> ProjectorConfig:
    config = ProjectorConfig()
    text_format.Parse((run / "projector_config.pbtxt").read_text(), config)
    return config


@pytest.mark.slow
def test_codes_stand_beside_their_images_and_attributes(ray_session: str, tmp_path: Path) -> None:
    data = Folder.at(tmp_path / "data")
    image = PRESETS["vae-celeba"].image
    [manifest] = prepare(DrawnFaces(120), [Target(data, image)])
    model = build(VAE, small_config("vae-celeba", latent_size=8))
    held_out = HeldOut.of(data, manifest, VALIDATION, 12)
    shown_codes = codes_of(model, held_out, 10)
    assert shown_codes
    write_projector(Folder.at(tmp_path), shown_codes)

    [embedding] = read(tmp_path).embeddings
    codes = np.loadtxt(tmp_path / embedding.tensor_path, delimiter="\t")
    pixels = held_out.read(0, 10).images
    with torch.no_grad():
        mean, _ = model.encode(as_images(pixels))
    np.testing.assert_allclose(codes, mean.numpy(), rtol=1e-3, atol=1e-4)

    heading, *rows = (tmp_path / embedding.metadata_path).read_text().splitlines()
    assert heading.split("\t") == ["image", *manifest.attributes]
    assert len(rows) == 10
    faces = held_out.reader
    for name in ("Smiling", "Eyeglasses"):
        column = heading.split("\t").index(name)
        words = {1: "yes", -1: "no"}
        wanted = [words[int(value)] for value in faces.attribute(name)[:10]]
        assert [row.split("\t")[column] for row in rows] == wanted

    width, height = embedding.sprite.single_image_dim
    assert (width, height) == (52, 64)
    sheet = np.asarray(Image.open(tmp_path / embedding.sprite.image_path))
    assert sheet.shape == (4 * height, 4 * width, 3)
    # The sixth image, in the second row of four.
    shown = sheet[height : 2 * height, width : 2 * width]
    wanted_pixels = Image.fromarray(pixels[5]).resize((width, height), Image.Resampling.LANCZOS)
    assert np.array_equal(shown, np.asarray(wanted_pixels))


def test_small_images_are_not_enlarged_and_one_column_has_no_heading(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    sheet, size = thumbnails(images)
    assert size == (4, 6)
    assert np.array_equal(sheet[4:8, :6], images[2])
    assert (sheet[4:8, 6:] == 255).all()
    codes, none = np.zeros((3, 2)), np.zeros((3, 0))
    write_projector(Folder.at(tmp_path), Codes(codes, images, ["a\tb", "c", "d"], (), none))
    [embedding] = read(tmp_path).embeddings
    assert (tmp_path / embedding.metadata_path).read_text() == "a b\nc\nd\n"


def test_nothing_is_shown_of_a_dataset_without_validation_images(tmp_path: Path) -> None:
    model = build(VAE, small_config("vae-celeba", latent_size=8))
    empty = Manifest(218, 178, (), {VALIDATION: ()}, {"kind": "none"}, 0, ())
    assert codes_of(model, HeldOut.of(Folder.at(tmp_path), empty, VALIDATION, 5), 5) is None
