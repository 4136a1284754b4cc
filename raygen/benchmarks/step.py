"""Measures the training step: against a plain port of it, and against the machine's limit.

raygen and the port (`raygen.benchmarks.plain`) run in a process each, which take turns, because how
memory is kept is a setting of the process. Each ratio is of two steps that follow each other, so
that what else the machine does meets both, and the median of the ratios counts.

The share of the machine's limit is the FLOP/s of raygen's step divided by those of a large matrix
product in the same precision. What counts is the arithmetic that raygen really carries out, in
convolutions and matrix products. Where it needs less than the port (see `UpsampleConv2d`), the
saving shows in the ratio to the port and not a second time here.
"""

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from raygen.benchmarks.figures import Figure, say, seconds_for
from raygen.benchmarks.options import StepBenchOptions
from raygen.benchmarks.plain import PLAIN
from raygen.config.families import VAEGANConfig
from raygen.config.run import PRESETS, RunConfig
from raygen.core.errors import RunError
from raygen.data.batch import Batch
from raygen.models import build_model
from raygen.models.base import Step
from raygen.training.hardware import use_bf16, use_cores, use_fast_paths

CPU = torch.device("cpu")
THREADS = 2
LEAST_SECONDS, MOST_REPEATS = 10, 9
"""Small steps are measured more often than they have to be: for so long, or so often."""
MATRIX = 4096
"""Side of the matrices whose product shows the machine's limit."""
BARS = {
    # Ratio to the port in float32 and in bfloat16, share of a matrix product likewise.
    "dcgan-celeba": ((1.3, 1.9), (0.7, 0.6)),
    "dcgan-anime": ((2.2, 3.5), (0.7, 0.6)),
    "vae-celeba": ((1.5, 3.5), (0.55, 0.6)),
    "vaegan-anime": ((1.3, 1.9), (None, 0.6)),
}


def step(options: StepBenchOptions) -> list[Figure]:
    """Measure all figures."""
    bf16 = use_bf16(options.precision, CPU)
    figures = []
    with ExitStack() as stack:
        mine, plain = (stack.enter_context(Side(raygen_step)), stack.enter_context(Side(port_step)))
        product = matrix_product(bf16)
        for preset in options.preset or tuple(BARS):
            figures += measure(options, config_of(options, preset), mine, plain, product)
    return figures


def config_of(options: StepBenchOptions, preset: str) -> RunConfig:
    """The run whose step is measured: the preset's, with all networks stepping in every step."""
    config = PRESETS[preset]
    config = replace(config, precision="bf16" if use_bf16(options.precision, CPU) else "fp32")
    config = replace(config, width=options.width)
    if options.batch_size:
        config = replace(config, batch_size=options.batch_size)
    if isinstance(config.model, VAEGANConfig):
        config = replace(config, model=replace(config.model, schedule="1:1"))
    return config


def measure(
    options: StepBenchOptions,
    config: RunConfig,
    mine: "Side",
    plain: "Side",
    product: Callable[[], float],
) -> list[Figure]:
    """Measure one preset. Args: product: measures the machine's limit once, in FLOP/s."""
    say(f"measuring the step of {config.preset}")
    for side in (mine, plain):
        side.ask("build", config)
    # The first step includes start-up costs.
    operations = mine.ask("count")
    plain.ask("count")
    seconds: list[list[float]] = [[], []]
    limits: list[float] = []
    began = time.monotonic()
    while len(limits) < options.repeats or (
        len(limits) < MOST_REPEATS and time.monotonic() - began < LEAST_SECONDS
    ):
        limits.append(product())
        for times, side in zip(seconds, (mine, plain), strict=True):
            times.append(side.ask("run", options.steps))
    ratios = [theirs / own for own, theirs in zip(*seconds, strict=True)]
    shares = [operations / own / limit for own, limit in zip(seconds[0], limits, strict=True)]
    own, theirs = (statistics.median(times) for times in seconds)
    bf16 = config.precision == "bf16"
    (ratio_bar, share_bar) = (bars[bf16] for bars in BARS[config.preset])
    kind = "bf16" if bf16 else "fp32"
    batch = f"batch {config.batch_size}"
    return [
        Figure(
            f"{config.preset}: steps/s in {kind} : of a plain port in fp32",
            statistics.median(ratios),
            ratio_bar,
            True,
            f"{own:.3g} s : {theirs:.3g} s, {batch}",
        ),
        Figure(
            f"{config.preset}: FLOP/s in {kind} : of a matrix product",
            statistics.median(shares),
            share_bar,
            True,
            f"{operations / own / 1e9:.0f} : {statistics.median(limits) / 1e9:.0f} GFLOP/s",
        ),
    ]


def matrix_product(bf16: bool) -> Callable[[], float]:
    """Returns: a function that multiplies two large matrices and returns the FLOP/s."""
    use_cores(THREADS)
    random = torch.Generator().manual_seed(0)
    kind = torch.bfloat16 if bf16 else torch.float32
    left, right = (torch.randn(MATRIX, MATRIX, generator=random).to(kind) for _ in range(2))
    result = torch.empty(MATRIX, MATRIX, dtype=kind)

    def multiply() -> float:
        return 2 * MATRIX**3 / seconds_for(lambda: torch.mm(left, right, out=result))

    multiply()
    return multiply


def raygen_step(config: RunConfig) -> Callable[[], object]:
    """A function that takes raygen's next step, as a training does."""
    use_fast_paths(CPU)
    model = build_model(config)
    model.to(CPU)
    model.bf16 = config.precision == "bf16"
    images = random_images(config).to(memory_format=torch.channels_last)
    count = len(images)
    batch = Batch(images, torch.zeros(count, 0, dtype=torch.int8), torch.arange(count))
    number = 0

    def take() -> None:
        nonlocal number
        model.update(batch, Step(number, 1_000_000, count, number * count))
        number += 1

    return take


def port_step(config: RunConfig) -> Callable[[], object]:
    """A function that takes the port's next step."""
    port, images = PLAIN[config.preset](config), random_images(config)
    return lambda: port.update(images, *port.draw())


def random_images(config: RunConfig) -> torch.Tensor:
    """Images of a step, (N, 3, H, W) in [-1, 1]."""
    random = torch.Generator().manual_seed(0)
    shape = (config.step_images, 3, config.image.height, config.image.width)
    return torch.rand(shape, generator=random) * 2 - 1


class _Operations(TorchDispatchMode):
    """Counts the FLOPs of convolutions and matrix products, each multiply-add as two.

    torch's own `FlopCounterMode` has hooks besides that gradients of single tensors do not allow.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, kinds: Any, given: Any = (), named: Any = None
    ) -> Any:
        named = named or {}
        result = function(*given, **named)
        formula = flop_registry.get(function._overloadpacket)
        if formula:
            self.total += formula(*given, **named, out_val=result)
        return result


class Side:
    """A process that takes steps when it is asked to."""

    def __init__(self, build: Callable[[RunConfig], Callable[[], object]]) -> None:
        # A new interpreter, because a fork would not have torch's threads.
        context = multiprocessing.get_context("spawn")
        self._here, self._there = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._there, build), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        # Only the process may hold its end, or nobody would notice when it dies.
        self._there.close()
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.join()

    def ask(self, command: str, value: Any = None) -> Any:
        """Wait for an answer. Raises: RunError if the process ends, as for lack of memory."""
        self._here.send((command, value))
        try:
            return self._here.recv()
        except EOFError:
            raise RunError("a measuring process ended; is there enough memory?") from None


def _serve(there: Connection, build: Callable[[RunConfig], Callable[[], object]]) -> None:
    use_cores(THREADS)
    take: Callable[[], object] | None = None
    while True:
        command, value = there.recv()
        if command == "build":
            # Drop the last preset's networks before the next one's are made.
            take = None
            gc.collect()
            take = build(value)
            there.send(None)
            continue
        assert take
        if command == "count":
            with _Operations() as counter:
                take()
            there.send(counter.total)
        else:
            there.send(statistics.median(seconds_for(take) for _ in range(value)))
