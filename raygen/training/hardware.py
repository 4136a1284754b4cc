"""What this machine can do for training: its compiler, its precision, its cores."""

import os
import shutil
from typing import Any

import torch

from raygen.core.errors import UserError
from raygen.core.processors import cores


def check_compiler(device: torch.device) -> None:
    """Raises: UserError if this machine cannot compile networks for the device."""
    compilers = ("g++", "clang++", "c++", os.environ.get("CXX", "g++"))
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise UserError(
            "--compile: needs a C++ compiler (g++) on this machine; install one, or leave it out"
        )


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16; `auto` asks the hardware."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without these instructions a CPU emulates bfloat16, many times slower. Older versions of torch
    # cannot tell.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("bf16"))


def use_cores(count: int) -> None:
    """Set torch's threads, because Ray limits a worker to the few CPUs that it reserved."""
    torch.set_num_threads(max(1, min(count, cores())))
