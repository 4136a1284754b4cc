"""What this machine can do for training: its compiler, its precision, its cores."""

import os
import shutil
from typing import Any

import torch

from raygen.core.errors import UserError
from raygen.core.memory import keep_memory
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
    return _cpu_prefers_bf16()


def _cpu_prefers_bf16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 faster than in float32.

    Without instructions for it a CPU emulates bfloat16, many times slower. Intel's AVX-512
    instructions alone are no gain either: where a virtual machine hides AMX, 79 GFLOP/s were
    measured on a core that reaches 152 in float32.
    """
    # Older versions of torch cannot tell.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities.get("amx_bf16") or capabilities.get("bf16"):
        return True
    is_intel = "Intel" in str(capabilities.get("cpu_name", "Intel"))
    return bool(capabilities.get("avx512_bf16")) and not is_intel


def use_fast_paths(device: torch.device, deterministic: bool = False) -> None:
    """Have this process train at the device's full speed. Numbers stay the same on CPUs.

    Args: deterministic: only by algorithms that give the same result each time.
    """
    torch.use_deterministic_algorithms(deterministic)
    # Filling new tensors finds mistakes, but takes time.
    deterministic_settings: Any = torch.utils.deterministic
    deterministic_settings.fill_uninitialized_memory = False
    if deterministic:
        # cuBLAS reads this when it is first used, and is not deterministic without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device.type == "cpu":
        keep_memory()
    elif device.type == "cuda":
        # Try several algorithms for each shape, of which a training has few: the fastest may be
        # another one each time.
        torch.backends.cudnn.benchmark = not deterministic
        # Multiply float32 by the tensor cores, with 10 bits of mantissa (TF32).
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def use_cores(count: int) -> None:
    """Set torch's threads, because Ray limits a worker to the few CPUs that it reserved."""
    torch.set_num_threads(max(1, min(count, cores())))
