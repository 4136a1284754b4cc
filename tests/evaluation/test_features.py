"""Extractors: the same for everybody, and what they see."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from ladder import check_ladder, faces
from torch import Tensor

from raygen.core.errors import UserError
from raygen.evaluation.features import random_vgg, resized, uniform_numbers
from raygen.evaluation.pretrained import DinoV2, load_weights


def test_the_random_numbers_are_those_of_splitmix64() -> None:
    # The first outputs of the generator with state 0, as its authors' code gives them.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    np.testing.assert_array_equal(uniform_numbers(3, 0), [(n >> 11) * 2.0**-53 for n in expected])
    many = uniform_numbers(100_000, 7)
    assert many.min() >= 0
    assert many.max() < 1
    assert many.mean() == pytest.approx(0.5, abs=0.005)
    assert many.var() == pytest.approx(1 / 12, abs=0.002)


def test_the_untrained_network_has_the_same_weights_everywhere() -> None:
    extractor = random_vgg()
    # Another hash is another metric, whose values cannot be compared with earlier ones.
    assert extractor.sha256.startswith("e5ff19f381595198")
    [first, again] = (e.features([faces(0, 3)[0]], "cpu") for e in (extractor, random_vgg()))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (3, extractor.dimensions)


@pytest.mark.numeric
def test_features_do_not_depend_on_the_batches() -> None:
    extractor = random_vgg()
    images, _ = faces(0, 70)
    whole = extractor.features([images], "cpu")
    parts = extractor.features([images[:1], images[1:66], images[66:66], images[66:]], "cpu")
    np.testing.assert_allclose(whole, parts, atol=1e-4)


def test_images_of_any_size_have_features() -> None:
    extractor = random_vgg()
    for shape in ((2, 218, 178, 3), (2, 8, 9, 3), (2, 64, 64, 3), (0, 64, 64, 3)):
        images = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
        features = extractor.features([images], "cpu")
        assert features.shape == (shape[0], extractor.dimensions)
        assert np.isfinite(features).all()
    plain = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert resized(plain, 16).flatten()[[0, 255]].tolist() == [-1, 1]


@pytest.mark.slow
@pytest.mark.numeric
def test_the_untrained_network_ranks_known_damage() -> None:
    check_ladder(random_vgg(), 200)


def test_weights_of_strangers_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            load_weights(str(tmp_path / name))
        assert "\n" not in str(error.value)
        return str(error.value)

    def saved(value: object) -> bytes:
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()

    with pytest.raises(UserError, match="missing: cannot be read"):
        load_weights(str(tmp_path / "missing"))
    assert "cannot be read as tensors" in refused("noise", b"\x80\x04noise")
    assert "another network" in refused("other", saved({"a": torch.zeros(2)}))
    assert "other than tensors" in refused("list", saved([1, 2]))
    inception = {"Conv2d_1a_3x3.conv.weight": torch.zeros(2)}
    assert "another Inception" in refused("inception", saved(inception))
    broken = {"patch_embed.proj.weight": torch.zeros(2)}
    message = refused("dino", saved(broken))
    assert "no DINOv2" in message
    assert "https://" in message


class _Runs:
    """Would create a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_nothing_in_a_file_of_weights_is_executed(tmp_path: Path) -> None:
    file, made = tmp_path / "weights.pth", tmp_path / "made"
    torch.save({"cls_token": _Runs(made)}, file)
    with pytest.raises(UserError, match="cannot be read as tensors"):
        load_weights(str(file))
    assert not made.exists()


def dino_weights(width: int = 128, depth: int = 2) -> dict[str, Tensor]:
    """Random weights of a small DINOv2, under the authors' names."""
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random) * 0.05

    weights = {
        "cls_token": drawn(1, 1, width),
        "pos_embed": drawn(1, 1 + 37 * 37, width),
        "mask_token": drawn(1, width),
        "patch_embed.proj.weight": drawn(width, 3, 14, 14),
        "patch_embed.proj.bias": drawn(width),
        "norm.weight": 1 + drawn(width),
        "norm.bias": drawn(width),
    }
    for number in range(depth):
        shapes = {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }
        for name, shape in shapes.items():
            weights[f"blocks.{number}.{name}.weight"] = drawn(*shape)
            weights[f"blocks.{number}.{name}.bias"] = drawn(shape[0])
        for name in ("norm1", "norm2"):
            weights[f"blocks.{number}.{name}.weight"] = 1 + drawn(width)
            weights[f"blocks.{number}.{name}.bias"] = drawn(width)
        for name in ("ls1", "ls2"):
            weights[f"blocks.{number}.{name}.gamma"] = 1 + drawn(width)
    return weights


@pytest.mark.numeric
def test_the_transformer_is_one_of_torch_s_own_layers(tmp_path: Path) -> None:
    weights = dino_weights()
    network = DinoV2(weights)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    patches = torch.nn.functional.conv2d(
        images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=14
    )
    tokens = torch.cat([weights["cls_token"].expand(2, -1, -1), patches.flatten(2).mT], dim=1)
    tokens = tokens + network.places
    for number in range(2):
        w = {n.removeprefix(f"blocks.{number}."): t for n, t in weights.items()}
        attention = torch.nn.MultiheadAttention(128, 2, batch_first=True)
        attention.load_state_dict(
            {
                "in_proj_weight": w["attn.qkv.weight"],
                "in_proj_bias": w["attn.qkv.bias"],
                "out_proj.weight": w["attn.proj.weight"],
                "out_proj.bias": w["attn.proj.bias"],
            }
        )
        normal = torch.nn.functional.layer_norm(
            tokens, (128,), w["norm1.weight"], w["norm1.bias"], 1e-6
        )
        tokens = tokens + attention(normal, normal, normal)[0] * w["ls1.gamma"]
        normal = torch.nn.functional.layer_norm(
            tokens, (128,), w["norm2.weight"], w["norm2.bias"], 1e-6
        )
        hidden = torch.nn.functional.gelu(normal @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"])
        tokens = tokens + (hidden @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]) * w["ls2.gamma"]
    expected = torch.nn.functional.layer_norm(
        tokens, (128,), weights["norm.weight"], weights["norm.bias"], 1e-6
    )[:, 0]
    torch.testing.assert_close(network(images), expected.detach(), atol=1e-4, rtol=1e-4)

    file = tmp_path / "dino.pth"
    torch.save(weights, file)
    extractor = load_weights(str(file))
    assert extractor.name == "dinov2"
    assert extractor.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert extractor.features([faces(0, 2)[0]], "cpu").shape == (2, 128)
