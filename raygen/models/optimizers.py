"""Optimizers that compute what torch's do, in fewer passes over memory."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 2**17
"""Numbers that are updated at once: those of a weight, its gradient and its state fit in a core's
cache together."""


def adam(
    parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Adam:
    """Adam (Kingma & Ba 2014, arXiv 1412.6980), whose step is one kernel."""
    optimizer = torch.optim.Adam(parameters, lr, betas, fused=True)
    optimizer.register_step_pre_hook(_match_layouts)
    return optimizer


def sgd(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.SGD:
    """Plain gradient descent, whose step is one kernel."""
    optimizer = torch.optim.SGD(parameters, lr, fused=True)
    optimizer.register_step_pre_hook(_match_layouts)
    return optimizer


def _match_layouts(optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
    """Give gradients the memory layouts of their parameters.

    Those of autograd have them already. torch's fused kernels for CPUs do not check it, and would
    pair each weight with the gradient of another.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None and gradient.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(gradient)


class RMSprop(torch.optim.RMSprop):
    """torch's RMSprop without momentum, centring and weight decay.

    torch has no fused kernel of it. On CPUs all of its operations are applied to one block of the
    weights after the other, so that they find the block in the cache.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, alpha: float) -> None:
        super().__init__(parameters, lr, alpha)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step. Args: closure: must be None."""
        if any(p.device.type != "cpu" for group in self.param_groups for p in group["params"]):
            super().step()
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["square_avg"] = torch.zeros_like(
                        parameter, memory_format=torch.preserve_format
                    )
                state["step"] += 1
                self._step_in_blocks(group, parameter, parameter.grad, state["square_avg"])

    def _step_in_blocks(
        self, group: dict[str, Any], parameter: Tensor, gradient: Tensor, squares: Tensor
    ) -> None:
        rows = max(1, BLOCK * len(parameter) // parameter.numel())
        blocks = zip(*(each.split(rows) for each in (parameter, gradient, squares)), strict=True)
        for weights, slopes, square in blocks:
            square.mul_(group["alpha"]).addcmul_(slopes, slopes, value=1 - group["alpha"])
            weights.addcdiv_(slopes, square.sqrt().add_(group["eps"]), value=-group["lr"])
