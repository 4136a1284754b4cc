"""What the files of a checkpoint may hold, checked before a number or a tensor of them is used."""

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
"""Tensors of a file by name: type, as safetensors calls it, and shape."""

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
"""A safetensors file begins with the length of its header, as a little-endian number."""
BELOW_ONE = ("alpha", "betas", "momentum", "rho")
"""Settings of optimizers that are decays: a moving average with one of 1 or more grows for ever."""


def layout_of(tensors: Mapping[str, Tensor]) -> Layout:
    """The layout of tensors as they are saved."""
    return {n: (DTYPES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for n, t in tensors.items()}


def read_layout(checkpoint: Folder, name: str, state: Checked, sizes: Mapping[str, int]) -> Layout:
    """Which tensors a file holds, from its header alone: the tensors themselves are not read.

    Args: sizes: in bytes, of the files that are there.
    Raises: OSError if it cannot be read; CheckpointError if it has not the size that `state.json`
        says, or its header is damaged, or is that of a file of another size.
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
    """How tensors of a file differ from those that a model has; empty if they do not."""
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
    """Check what a checkpoint says of an optimizer, before it is told any of it.

    Args:
        found: the optimizer's entry in `state.json`.
        layout: of the file of all optimizers' tensors, named `<optimizer>/<parameter>/<key>`.
    Returns: the groups of parameters as `Optimizer.load_state_dict` takes them.
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
    for kinds, group in zip(_state_kinds(optimizer), own, strict=True):
        tensors = {key for key, kind in kinds.items() if isinstance(kind, Tensor)}
        for number in group["params"]:
            prefix = f"{name}/{number}/"
            mine = {k.removeprefix(prefix): v for k, v in layout.items() if k.startswith(prefix)}
            others = values[str(number)].entries() if str(number) in values else {}
            # A network that has not been trained yet has no state.
            if not mine and not others:
                continue
            expected = _expected(kinds, parameters[number])
            problem = difference(mine, expected)
            if problem:
                found.refuse(f"the tensors {prefix}... do not fit this model ({problem})")
            if others.keys() != kinds.keys() - tensors:
                found.refuse(f"{found.path}.state.{number} has other entries than this model")
            for key, other in others.items():
                if type(other.value) is not type(kinds[key]):
                    other.fail(f"of type {type(kinds[key]).__name__}")
    return [_settings(group, mine) for group, mine in zip(groups, own, strict=True)]


def _expected(kinds: dict[str, Any], parameter: Tensor) -> Layout:
    """The layout of what an optimizer remembers of a parameter."""
    shapes = {
        key: tuple(parameter.shape if kind.shape == _PROBE else kind.shape)
        for key, kind in kinds.items()
        if isinstance(kind, Tensor)
    }
    return {key: (DTYPES[kinds[key].dtype], shape) for key, shape in shapes.items()}


_PROBE = torch.Size((2, 3))


def _state_kinds(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What an optimizer remembers of a parameter of shape `_PROBE`, for each group of parameters.

    Found by a step of its twin: what that is differs from one optimizer and option to the next.
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


def _settings(found: Checked, own: dict[str, Any]) -> dict[str, Any]:
    """A group of parameters with the numbers that were saved, such as its learning rate.

    What is true or false says how this machine and this version of torch compute; newer versions
    have more of that. It is not taken from the file.
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
