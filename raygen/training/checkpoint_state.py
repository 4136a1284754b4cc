"""Checks on the files of a checkpoint, before any number or tensor in them is used."""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.optim import Optimizer

from raygen.core.checked import MOST_BYTES, Checked, parse
from raygen.core.errors import CheckpointError
from raygen.core.storage import Folder

Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Data type, by its safetensors name, and shape of each tensor in a file, by name."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
LENGTH_BYTES = 8
"""Size of the little-endian header length at the start of a safetensors file, in bytes."""
BELOW_ONE = ("alpha", "betas", "momentum", "rho")
"""Optimizer settings that must be below 1: moving averages would otherwise grow for ever."""


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """The layout that tensors have in a file."""
    return {n: (DTYPES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for n, t in tensors.items()}


def read_layout(checkpoint: Folder, name: str, state: Checked, sizes: Mapping[str, int]) -> Layout:
    """Read a file's layout from its header, without reading the tensors.

    Args: sizes: sizes of the existing files, in bytes.
    Raises: OSError if it cannot be read; CheckpointError if its size is not the one in
        `state.json`, or its header is damaged or belongs to a file of another size.
    """
    listed = state.entry("files").optional(name)
    if listed is None:
        state.refuse(f"files does not list {name}")
    size, where = listed.entry("bytes").integer(), checkpoint.join(name).uri

    def refuse(problem: str) -> NoReturn:
        raise CheckpointError(f"{where}: damaged ({problem}); {state.advice}")

    if name not in sizes:
        raise CheckpointError(f"{where}: is missing; {state.advice}")
    if sizes[name] != size:
        refuse(f"it has {sizes[name]:,} bytes, not {size:,}")
    length = int.from_bytes(checkpoint.read_bytes(name, LENGTH_BYTES), "little")
    if length > min(size - LENGTH_BYTES, MOST_BYTES):
        refuse(f"its header has {length:,} bytes")
    data = checkpoint.read_bytes(name, LENGTH_BYTES + length)[LENGTH_BYTES:]
    header = parse(data, f"{where}: damaged header", CheckpointError, state.advice)
    tensors = header.entries()
    layout: Layout = {}
    held = 0
    for key, values in tensors.items():
        if key == "__metadata__":
            continue
        shape = tuple(side.integer() for side in values.entry("shape").items())
        layout[key] = (values.entry("dtype").text(), shape)
        first, stop = (offset.integer() for offset in values.entry("data_offsets").pair())
        held += stop - first
    if LENGTH_BYTES + length + held != size:
        refuse(f"its header is that of {LENGTH_BYTES + length + held:,} bytes, not {size:,}")
    return layout


def difference(found: Layout, expected: Layout) -> str:
    """Describe how a file's layout differs from a model's; empty if it does not."""
    for name, kind in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != kind:
            return f"{name} is {_described(found[name])}, not {_described(kind)}"
    unknown = [name for name in found if name not in expected]
    return f"{unknown[0][:60]!r} is unknown" if unknown else ""


def _described(kind: tuple[str, tuple[int, ...]]) -> str:
    dtype, shape = kind
    return f"{dtype[:10]!a} of {'x'.join(map(str, shape[:8])) or 'one number'}"


def check_optimizer(
    found: Checked, name: str, optimizer: Optimizer, layout: Layout
) -> list[dict[str, Any]]:
    """Check a checkpoint's state of an optimizer before it is loaded.

    Args:
        found: the optimizer's entry in `state.json`.
        layout: layout of the optimizers' file, with names `<optimizer>/<parameter>/<key>`.
    Returns: the parameter groups as `Optimizer.load_state_dict` takes them.
    Raises: CheckpointError.
    """
    own = optimizer.state_dict()["param_groups"]
    groups = found.entry("param_groups").items()
    if len(groups) != len(own):
        found.entry("param_groups").fail(f"a list of {len(own)}, as this model's optimizer has")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    values = found.entry("state").entries()
    for number, entry in values.items():
        if number not in map(str, range(len(parameters))):
            entry.refuse(f"{entry.path} is no parameter of this model")
    for example, group in zip(_example_states(optimizer), own, strict=True):
        tensors = {key for key, value in example.items() if isinstance(value, Tensor)}
        for number in group["params"]:
            prefix = f"{name}/{number}/"
            mine = {k.removeprefix(prefix): v for k, v in layout.items() if k.startswith(prefix)}
            others = values[str(number)].entries() if str(number) in values else {}
            # The optimizer of a network that has not stepped yet has no state.
            if not mine and not others:
                continue
            expected = _expected(example, parameters[number])
            problem = difference(mine, expected)
            if problem:
                found.refuse(f"the tensors {prefix}... do not fit this model ({problem})")
            if others.keys() != example.keys() - tensors:
                found.refuse(f"{found.path}.state.{number} has other entries than this model")
            for key, other in others.items():
                if type(other.value) is not type(example[key]):
                    other.fail(f"of type {type(example[key]).__name__}")
    return [_checked_group(group, mine) for group, mine in zip(groups, own, strict=True)]


def _expected(example: dict[str, Any], parameter: Tensor) -> Layout:
    """The layout of an optimizer's state of a parameter."""
    shapes = {
        key: tuple(parameter.shape if value.shape == _PROBE else value.shape)
        for key, value in example.items()
        if isinstance(value, Tensor)
    }
    return {key: (DTYPES[example[key].dtype], shape) for key, shape in shapes.items()}


_PROBE = torch.Size((2, 3))


def _example_states(optimizer: Optimizer) -> list[dict[str, Any]]:
    """An optimizer's state of a parameter of shape `_PROBE`, for each parameter group.

    Determined by a step of a copy, because the state depends on the optimizer and its options.
    """
    twin = copy.copy(optimizer)
    probes = [torch.zeros(_PROBE, dtype=g["params"][0].dtype) for g in optimizer.param_groups]
    groups = zip(optimizer.param_groups, probes, strict=True)
    twin.param_groups = [{**group, "params": [probe]} for group, probe in groups]
    twin.state = defaultdict(dict)
    for probe in probes:
        probe.grad = torch.zeros_like(probe)
    twin.step()
    return [dict(twin.state[probe]) for probe in probes]


def _checked_group(found: Checked, own: dict[str, Any]) -> dict[str, Any]:
    """A parameter group with the saved numbers, such as its learning rate.

    Booleans say how this machine and this version of torch compute, and newer versions have more
    of them, so they are not taken from the file.
    """
    for name, value in found.entries().items():
        if name not in own and not isinstance(value.value, bool | None):
            found.refuse(f"{value.path} is unknown")
    if found.entry("params").value != own["params"]:
        found.entry("params").fail(f"the numbers of {len(own['params'])} parameters, in order")
    settings = dict(own)
    for name, mine in own.items():
        below = 1.0 if name in BELOW_ONE else math.inf
        if name == "params" or isinstance(mine, bool):
            continue
        if isinstance(mine, int | float):
            settings[name] = found.entry(name).number(0, below)
        elif isinstance(mine, tuple | list):
            numbers = found.entry(name).items()
            if len(numbers) != len(mine):
                found.entry(name).fail(f"{len(mine)} numbers")
            settings[name] = tuple(number.number(0, below) for number in numbers)
    return settings
