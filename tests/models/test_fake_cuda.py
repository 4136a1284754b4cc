"""Every preset's work on a GPU, without one: on torch's fake tensors, which have only a device.

Whatever needs a number on the host fails there, and so do operations on tensors of two devices.
The backward pass needs a real device and is left out.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import build_any, small_config
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from raygen.config.run import PRESETS
from raygen.data.batch import Batch
from raygen.models.base import Metrics, Model, Step
from raygen.training.hardware import use_fast_paths

CUDA = torch.device("cuda", 0)
CASES: list[tuple[str, dict[str, Any]]] = [
    *((preset, {}) for preset in PRESETS),
    ("dcgan-celeba", {"adversarial_loss": "wasserstein-gp"}),
    ("dcgan-celeba", {"spectral_norm": True, "adversarial_loss": "hinge", "schedule": "1:2"}),
    ("vaegan-anime", {"objective": "article"}),
    ("vaegan-anime", {"schedule": "1:1"}),
    ("vae-celeba", {"optimizer": "adam"}),
]


class Copies(TorchDispatchMode):
    """Refuses copies between host and device for which the host would have to wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pinned: set[int] = set()
        self.kept: list[Tensor] = []
        self.to_device = 0

    def pin(self, tensor: Tensor) -> Tensor:
        self.pinned.add(id(tensor))
        self.kept.append(tensor)
        return tensor

    def __torch_dispatch__(
        self, function: Any, kinds: Any, given: Any = (), named: Any = None
    ) -> Any:
        named = named or {}
        result = function(*given, **named)
        if function is torch.ops.aten._to_copy.default:
            before, after = given[0].device.type, result.device.type
            if before != after:
                assert (before, after) == ("cpu", "cuda"), "waits for the device"
                assert id(given[0]) in self.pinned
                assert named.get("non_blocking")
                self.to_device += 1
        return result


def on_fake_gpu(model: Model, mode: FakeTensorMode) -> None:
    """Move a model to a device that does not exist, and leave its backward passes out."""
    moved: dict[int, Tensor] = {}
    for network in model.networks.values():
        before = list(network.parameters())
        network._apply(lambda t: mode.from_tensor(t, static_shapes=True).to(CUDA))
        moved |= {id(old): new for old, new in zip(before, network.parameters(), strict=True)}
    for optimizer in model.optimizers.values():
        for group in optimizer.param_groups:
            group["params"] = [moved[id(p)] for p in group["params"]]
    model.bf16 = True


def derivatives(_: Any, inputs: Any, *rest: Any, **named: Any) -> Sequence[Tensor]:
    """Stands in for `torch.autograd.grad`."""
    given = (inputs,) if isinstance(inputs, Tensor) else inputs
    return tuple(torch.zeros_like(each) for each in given)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Copies]:
    copies = Copies()
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: copies.pin(tensor))
    monkeypatch.setattr(Tensor, "backward", lambda *_, **__: None)
    monkeypatch.setattr(torch.autograd, "backward", lambda *_, **__: None)
    monkeypatch.setattr(torch.autograd, "grad", derivatives)
    # Mixed precision too works on fake tensors, if torch is told that there is a GPU for it.
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    yield copies
    torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize(("preset", "options"), CASES)
def test_nothing_waits_for_the_device(preset: str, options: dict[str, Any], copies: Copies) -> None:
    config = small_config(preset, ema_images=1_000, **options)
    model = build_any(config)
    # Or a network could not be moved to tensors of another kind.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    steps = {name: mock.Mock() for name in model.optimizers}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        on_fake_gpu(model, mode)
        count, image = config.step_images, config.image
        images = torch.empty(count, 3, image.height, image.width, device=CUDA)
        rows = torch.arange(count, device=CUDA)
        batch = Batch(images, torch.zeros(count, 0, dtype=torch.int8, device=CUDA), rows)
        for name, optimizer in model.optimizers.items():
            optimizer.step = steps[name]  # type: ignore[method-assign]
        metrics: Metrics = {}
        with copies:
            # Turns of all kinds, in both halves of the run.
            for number in range(8):
                metrics |= model.update(batch, Step(number, 8, count, number * count))
            assert copies.to_device >= 8
            metrics |= model.validate(batch, 0)
            noise = model.fixed_noise(4, 1)
            made = [model.sample(noise)]
            if model.can_encode:
                made += [*model.encode(images), model.decode(model.encode(images)[0])]
    assert all(step.called for step in steps.values())
    assert {f"{tag}" for tag in metrics} >= set(model.losses)
    for tag, value in metrics.items():
        assert value.device == CUDA, tag
        assert value.shape == (), tag
        assert not value.requires_grad, tag
    assert all(result.device == CUDA for result in made)
    assert made[0].shape == (4, 3, image.height, image.width)
    assert made[0].dtype == torch.float32


def test_a_gpu_is_used_at_its_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    before = torch.get_float32_matmul_precision()
    try:
        use_fast_paths(CUDA)
        assert torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
