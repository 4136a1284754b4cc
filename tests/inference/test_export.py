"""Exported networks give the pictures that raygen itself draws."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import batch_of, build_any, scaled_images, small_config, step_of
from safetensors import safe_open
from safetensors.torch import load_file

from raygen.config.run import PRESETS
from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.inference.export import export
from raygen.inference.model import TrainedModel

pytestmark = pytest.mark.numeric

# Odd sizes, upsampling as one transposed convolution, and an encoder with two outputs.
CASES = ("dcgan-anime", "vae-celeba", "vaegan-anime")


def trained_model(preset: str) -> TrainedModel:
    config = small_config(preset, ema_images=1000, latent_size=8, batch_size=4)
    model = build_any(config)
    image = PRESETS[preset].image
    model.update(
        batch_of(scaled_images(config.step_images, image.height, image.width)), step_of(0, 4)
    )
    return TrainedModel(model, 1)


def expected(trained: TrainedModel, network: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Inputs of three images, another batch than was exported with, and what comes of them."""
    if network == "encoder":
        images = scaled_images(3, *trained.image_size)
        return images.numpy(), [part.numpy() for part in trained.model.encode(images)]
    codes = trained.codes(3, seed=5)
    return codes.numpy(), [trained.decode(codes).numpy()]


@pytest.mark.slow
@pytest.mark.parametrize("preset", CASES)
def test_onnxruntime_gives_the_same_pictures(preset: str, tmp_path: Path) -> None:
    trained = trained_model(preset)
    files = export(trained, "onnx", Folder.at(tmp_path))
    about = json.loads((tmp_path / "model.json").read_text())
    assert files == [f"{name}.onnx" for name in about["networks"]] + ["model.json"]
    for name, roles in about["networks"].items():
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")
        inputs, outputs = expected(trained, name)
        [given] = roles["inputs"]
        results = session.run(roles["outputs"], {given: inputs})
        for result, output in zip(results, outputs, strict=True):
            np.testing.assert_allclose(result, output, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("preset", CASES)
def test_torch_export_gives_the_same_pictures(preset: str, tmp_path: Path) -> None:
    trained = trained_model(preset)
    for file in export(trained, "torch-export", Folder.at(tmp_path))[:-1]:
        inputs, outputs = expected(trained, file.removesuffix(".pt2"))
        program = torch.export.load(tmp_path / file).module()
        with torch.no_grad():
            results = program(torch.from_numpy(inputs))
        parts = results if isinstance(results, tuple) else (results,)
        for result, output in zip(parts, outputs, strict=True):
            np.testing.assert_allclose(result.numpy(), output, atol=1e-4)


def test_safetensors_hold_the_weights_that_pictures_are_drawn_with(tmp_path: Path) -> None:
    trained = trained_model("vaegan-anime")
    files = export(trained, "safetensors", Folder.at(tmp_path))
    assert files == ["encoder.safetensors", "decoder.safetensors", "model.json"]
    decoder = load_file(tmp_path / "decoder.safetensors")
    for name, value in trained.model.networks["decoder_ema"].state_dict().items():
        assert torch.equal(decoder[name], value)
    with safe_open(tmp_path / "decoder.safetensors", "pt") as file:
        metadata = file.metadata()
    about = json.loads((tmp_path / "model.json").read_text())
    assert json.loads(metadata["model"]) == about
    assert metadata["network"] == "decoder"
    assert about["preset"] == "vaegan-anime"
    assert about["images"] == {"shape": ["batch", 3, 64, 64], "range": [-1, 1], "channels": "RGB"}
    # The model itself stays as it was.
    assert trained.sample(1).shape == (1, 3, 64, 64)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match="onnxscript; run it with `uv run --extra onnx`"):
        export(trained_model("dcgan-anime"), "onnx", Folder.at(tmp_path))
    assert list(tmp_path.iterdir()) == []
