"""raygen's optimizers against torch's own, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from raygen.models import optimizers
from raygen.models.optimizers import RMSprop, adam, sgd

pytestmark = pytest.mark.numeric

Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
PAIRS: dict[str, tuple[Build, Build]] = {
    "adam": (
        lambda p: adam(p, 1e-2, (0.5, 0.999)),
        lambda p: torch.optim.Adam(p, 1e-2, (0.5, 0.999)),
    ),
    "sgd": (lambda p: sgd(p, 1e-2), lambda p: torch.optim.SGD(p, 1e-2)),
    "rmsprop": (
        lambda p: RMSprop(p, 1e-2, alpha=0.9),
        lambda p: torch.optim.RMSprop(p, 1e-2, alpha=0.9),
    ),
}


def parameters() -> list[nn.Parameter]:
    """Weights of several shapes and memory layouts, the last of which never gets a gradient."""
    random = torch.Generator().manual_seed(0)
    shapes = [(7,), (5, 3), (4, 6, 3, 3), (1, 9), (2, 2)]
    tensors = [torch.randn(*shape, generator=random, dtype=torch.float64) for shape in shapes]
    tensors[2] = tensors[2].contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(tensor) for tensor in tensors]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("block", [1, 8, 2**17])
def test_each_computes_what_torchs_does(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "BLOCK", block)
    mine, theirs = parameters(), parameters()
    pair = [build(p) for build, p in zip(PAIRS[name], (mine, theirs), strict=True)]
    random = torch.Generator().manual_seed(1)
    for _ in range(4):
        for a, b in list(zip(mine, theirs, strict=True))[:-1]:
            gradient = torch.randn(a.shape, generator=random, dtype=torch.float64)
            # Not in the layout of its parameter, as it would come from autograd.
            a.grad, b.grad = gradient, gradient.clone()
        for optimizer in pair:
            optimizer.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    states = [optimizer.state_dict()["state"] for optimizer in pair]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        assert state.keys() == states[1][number].keys()
        for key, value in state.items():
            expected = states[1][number][key]
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14, check_dtype=False)
    # What one has learnt so far, the other can go on from.
    for optimizer, other in zip(pair, reversed(states), strict=True):
        optimizer.load_state_dict(optimizer.state_dict() | {"state": other})
        optimizer.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
