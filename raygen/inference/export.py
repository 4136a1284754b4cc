"""A trained model for other software: weights as safetensors, networks as ONNX or torch.export."""

import copy
import io
import json
import logging
import os
import tempfile
import warnings
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.inference.model import TrainedModel
from raygen.models.base import Interface

DESCRIPTION = "model.json"
BATCH = torch.export.Dim("batch", min=1)


def export(trained: TrainedModel, target: str, folder: Folder) -> list[str]:
    """Write the networks that make and read images, and `model.json`, which describes them.

    Networks are written as `TrainedModel` uses them: with the moving average of their weights, and
    batch norm's running statistics.

    Args: target: safetensors, onnx, or torch-export.
    Returns: the names of the files.
    Raises: UserError if a package that the format needs is not installed.
    """
    if target == "onnx":
        _require_onnx()
    files = {}
    for name, network in _networks(trained).items():
        interface = trained.model.interfaces[name]
        inputs = tuple(torch.zeros(2, *shape) for shape in interface.inputs.values())
        if target == "safetensors":
            tensors = {k: v.cpu().contiguous() for k, v in network.state_dict().items()}
            about = {"network": name, "model": json.dumps(_describe(trained))}
            files[f"{name}.safetensors"] = save_tensors(tensors, metadata=about)
        elif target == "onnx":
            files[f"{name}.onnx"] = _as_onnx(network, interface, inputs)
        else:
            program = torch.export.export(network, inputs, dynamic_shapes=_batches(inputs))
            file = io.BytesIO()
            torch.export.save(program, file)
            files[f"{name}.pt2"] = file.getvalue()
    for file_name, data in files.items():
        folder.write_bytes(file_name, data)
    folder.write_json(DESCRIPTION, _describe(trained))
    return [*files, DESCRIPTION]


def _networks(trained: TrainedModel) -> dict[str, nn.Module]:
    """Copies of the networks that users need, on the CPU."""
    names = trained.model.interfaces
    # Some formats only support the contiguous memory layout.
    copies = {name: copy.deepcopy(trained.model.ema(name)).cpu().eval() for name in names}
    return {n: c.to(memory_format=torch.contiguous_format) for n, c in copies.items()}


def _batches(inputs: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """Shape specification in which the first dimension of each input is dynamic."""
    return tuple({0: BATCH} for _ in inputs)


def _describe(trained: TrainedModel) -> dict[str, Any]:
    height, width = trained.image_size
    return {
        "preset": trained.config.preset,
        "family": trained.config.family,
        "width": trained.config.width,
        "step": trained.step,
        "codes": {"shape": ["batch", *trained.latent_shape], "distribution": "N(0, I)"},
        "images": {"shape": ["batch", 3, height, width], "range": [-1, 1], "channels": "RGB"},
        "networks": {
            name: {"inputs": list(interface.inputs), "outputs": list(interface.outputs)}
            for name, interface in trained.model.interfaces.items()
        },
    }


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--format onnx: needs the package {error.name}; run it with `uv run --extra onnx`"
        ) from error


def _as_onnx(network: nn.Module, interface: Interface, inputs: tuple[Tensor, ...]) -> bytes:
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        # About what the exporter does inside.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        path = os.path.join(place, "network.onnx")
        torch.onnx.export(
            network,
            inputs,
            path,
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=list(interface.inputs),
            output_names=list(interface.outputs),
            dynamic_shapes=_batches(inputs),
        )
        with open(path, "rb") as file:
            return file.read()
