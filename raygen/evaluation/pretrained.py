"""Pretrained extractors, whose weights a user brings: Inception, CLIP and DINOv2.

A file is recognised by its content, and nothing in it is executed: PyTorch's files are read as
plain tensors, and CLIP's, which are programs, only if their hash is the published one.
"""

import hashlib
import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygen.core.errors import UserError, one_line
from raygen.core.storage import Folder
from raygen.evaluation.features import Extractor

INCEPTION, CLIP, DINOV2 = "inception", "clip", "dinov2"
MOST_BYTES = 2 * 2**30
"""Largest file of weights that is read, in bytes."""


@dataclass(frozen=True)
class Published:
    """A published file of weights.

    Attributes:
        url: where to get it.
        sha256: hash of the file, or as much of its beginning as is published.
    """

    url: str
    sha256: str


PUBLISHED: Mapping[str, Published] = {
    INCEPTION: Published(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
    CLIP: Published(
        "https://openaipublic.azureedge.net/clip/models/"
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    ),
    DINOV2: Published(
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth", ""
    ),
}


def advice() -> str:
    """What to fetch, for a message."""
    return "; ".join(f"{name}: {file.url}" for name, file in PUBLISHED.items())


class DinoV2(nn.Module):
    """The vision transformer of DINOv2, of any size with patches of 14 pixels.

    Images (N, 3, 224, 224), normalised as ImageNet's -> the class token, (N, width).
    Source: Oquab et al. 2023, arXiv 2304.07193; the names of its weights are the authors'.
    """

    HEAD = 64
    """Width of an attention head."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Raises: KeyError if weights are missing; RuntimeError if they do not fit together."""
        super().__init__()
        self.weights = {name: tensor.float() for name, tensor in weights.items()}
        self.width = self.weights["cls_token"].shape[-1]
        self.depth = len([name for name in weights if name.endswith(".norm1.weight")])
        places = self.weights["pos_embed"]
        side = round((places.shape[1] - 1) ** 0.5)
        grid = places[:, 1:].reshape(1, side, side, self.width).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (16, 16), mode="bicubic", antialias=False)
        self.places = torch.cat([places[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def _apply(self, function: object, recurse: bool = True) -> "DinoV2":
        assert callable(function)
        self.weights = {name: function(tensor) for name, tensor in self.weights.items()}
        self.places = function(self.places)
        return self

    def forward(self, images: Tensor) -> Tensor:
        w = self.weights
        patches = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], 14)
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([w["cls_token"].expand(len(images), -1, -1), tokens], dim=1)
        tokens = tokens + self.places
        for number in range(self.depth):
            block = f"blocks.{number}."
            attended = self._attention(self._normal(tokens, f"{block}norm1"), block)
            tokens = tokens + attended * w[f"{block}ls1.gamma"]
            hidden = F.gelu(self._linear(self._normal(tokens, f"{block}norm2"), f"{block}mlp.fc1"))
            tokens = tokens + self._linear(hidden, f"{block}mlp.fc2") * w[f"{block}ls2.gamma"]
        return self._normal(tokens, "norm")[:, 0]

    def _attention(self, tokens: Tensor, block: str) -> Tensor:
        count, length, width = tokens.shape
        heads = width // self.HEAD
        mixed = self._linear(tokens, f"{block}attn.qkv")
        query, key, value = mixed.view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value)
        joined = found.transpose(1, 2).reshape(count, length, width)
        return self._linear(joined, f"{block}attn.proj")

    def _linear(self, values: Tensor, name: str) -> Tensor:
        return F.linear(values, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _normal(self, values: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(values, (self.width,), weight, bias, 1e-6)


class _Resized(nn.Module):
    """Brings uint8 images (N, 3, H, W) to 224 x 224, normalised as ImageNet's, for a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        size = (224, 224)
        scaled = F.interpolate(images.float() / 255, size, mode="bicubic", antialias=True)
        mean = scaled.new_tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        spread = scaled.new_tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        features: Tensor = self.network((scaled.clamp(0, 1) - mean) / spread)
        return features


class _First(nn.Module):
    """Takes the first of the features that torch-fidelity's extractors return."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)[0]
        return features.flatten(1)


def load_weights(path: str) -> Extractor:
    """Build the extractor that a file of weights is for.

    Raises: UserError if the file cannot be read, or is none of those that `PUBLISHED` lists.
    """
    file = Folder.at(path)
    try:
        data = file.parent.read_bytes(file.name, MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"--weights {path}: cannot be read ({one_line(error)})") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest == PUBLISHED[CLIP].sha256:
        return _clip(data, digest)
    try:
        tensors = torch.load(io.BytesIO(data), "cpu", weights_only=True)
    except Exception as error:
        raise _unknown(path, digest, f"cannot be read as tensors: {one_line(error)}") from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise _unknown(path, digest, "holds something other than tensors")
    if "Conv2d_1a_3x3.conv.weight" in tensors:
        if not digest.startswith(PUBLISHED[INCEPTION].sha256):
            raise _unknown(path, digest, "holds another Inception than the one of 2015")
        return _inception(tensors, digest)
    if "patch_embed.proj.weight" in tensors:
        return _dinov2(path, tensors, digest)
    raise _unknown(path, digest, "holds the tensors of another network")


def _unknown(path: str, digest: str, problem: str) -> UserError:
    return UserError(f"--weights {path}: {problem} (SHA-256 {digest[:16]}); known are {advice()}")


def _inception(tensors: Mapping[str, Tensor], digest: str) -> Extractor:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # The library unpickles whatever file it is given, so it is given one that was just written.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "weights.pth"
        torch.save(dict(tensors), copy)
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(copy)
        )
    resizer = "bilinear as in TensorFlow 1, to 299x299"
    return Extractor(INCEPTION, _First(network).eval(), 2048, digest, resizer)


def _clip(data: bytes, digest: str) -> Extractor:
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "weights.pt"
        copy.write_bytes(data)
        network = FeatureExtractorCLIP(
            "clip-vit-b-32", ["clip"], feature_extractor_weights_path=str(copy)
        )
    return Extractor(CLIP, _First(network).eval(), 512, digest, "bicubic, to 224x224")


def _dinov2(path: str, tensors: Mapping[str, Tensor], digest: str) -> Extractor:
    try:
        network = DinoV2(tensors)
        with torch.no_grad():
            [features] = network(torch.zeros(1, 3, 224, 224))
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        raise _unknown(path, digest, f"its tensors make no DINOv2: {one_line(error)}") from error
    resizer = "bicubic, antialiased, to 224x224"
    return Extractor(DINOV2, _Resized(network).eval(), len(features), digest, resizer)
