"""When the discriminator steps and when the generator: 1:1, n:m, or two-phase.

`n:m` means n discriminator steps for m generator steps. A run counts iterations, each of which
takes one batch of images: the network that steps more often steps in every iteration, and the
other's steps are spread evenly, the first at the end of its interval. `two-phase` is 4:1 in the
first half of the run and 1:4 in the second. While the discriminator rests, batches pass unused, so
that steps, images and epochs mean the same under every schedule.
"""

import re
from dataclasses import dataclass

from raygen.core.errors import UserError

TWO_PHASE = "two-phase"
MAX_STEPS = 100


@dataclass(frozen=True)
class Turn:
    """Who steps in an iteration."""

    discriminator: bool
    generator: bool


@dataclass(frozen=True)
class Schedule:
    """Ratios of discriminator steps to generator steps, each for an equal part of the run."""

    phases: tuple[tuple[int, int], ...]

    @staticmethod
    def parse(text: str) -> "Schedule":
        """Parse a schedule that a user wrote: 1:1, 5:1, 2:3, two-phase.

        Raises: UserError.
        """
        if text == TWO_PHASE:
            return Schedule(((4, 1), (1, 4)))
        numbers = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text)
        ratio = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
        if not all(1 <= steps <= MAX_STEPS for steps in ratio):
            raise UserError(
                f"--schedule {text}: must be {TWO_PHASE}, or discriminator steps : generator "
                f"steps, each from 1 to {MAX_STEPS}, as 1:1 or 5:1"
            )
        return Schedule((ratio,))

    def phase(self, iteration: int, total: int) -> int:
        """Index, from 0, of the phase that an iteration belongs to in a run of `total`."""
        return min(iteration * len(self.phases) // total, len(self.phases) - 1)

    def turn(self, iteration: int, total: int) -> Turn:
        """Who steps in an iteration (from 0) of a run of `total` iterations."""
        phase = self.phase(iteration, total)
        begin = -(-phase * total // len(self.phases))
        discriminator, generator = self.phases[phase]
        longest = max(discriminator, generator)
        place = iteration - begin

        def steps(count: int) -> bool:
            return (place + 1) * count // longest > place * count // longest

        return Turn(steps(discriminator), steps(generator))

    def steps(self, iterations: int, total: int) -> tuple[int, int]:
        """Steps of discriminator and generator in the first iterations of a run of `total`."""
        taken = [0, 0]
        for phase, ratio in enumerate(self.phases):
            begin, end = (-(-p * total // len(self.phases)) for p in (phase, phase + 1))
            place = min(max(iterations - begin, 0), end - begin)
            for network, count in enumerate(ratio):
                taken[network] += place * count // max(ratio)
        return taken[0], taken[1]
