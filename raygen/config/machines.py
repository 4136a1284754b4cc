"""Machines that a user says a cluster may come to have."""

import re

from raygen.config.fields import require

MAY_GROW_TO = "--cluster-may-grow-to"
MOST_MACHINES = 10_000
"""Upper limit of the machines that jobs plan with."""
_KIND = r"(\d{1,5})x(\d{1,4})CPU(?:\+(\d{1,3})GPU)?"


def machines_of(text: str) -> list[dict[str, float]]:
    """Parse machines such as 4x8CPU+1GPU,2x16CPU: four of 8 CPUs and 1 GPU each, two of 16 CPUs.

    Returns: resources of each machine, by Ray's names; none for an empty text.
    Raises: UserError.
    """
    machines: list[dict[str, float]] = []
    for kind in text.split(",") if text else ():
        match = re.fullmatch(_KIND, kind, re.ASCII)
        wish = "be machines, as 4x8CPU+1GPU (four of 8 CPUs and 1 GPU each), or 4x8CPU+1GPU,2x16CPU"
        require(bool(match), MAY_GROW_TO, text, wish)
        assert match
        count, cpus, gpus = (int(number or 0) for number in match.groups())
        require(count > 0 and cpus > 0, MAY_GROW_TO, text, "have machines of at least 1 CPU each")
        machine = {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})
        machines += [machine] * count
        require(len(machines) <= MOST_MACHINES, MAY_GROW_TO, text, f"be {MOST_MACHINES:,} at most")
    return machines
