"""Contenders with made-up figures."""

from typing import Any

from raygen.comparison.contenders import Contender, Entry
from raygen.comparison.runs import RunInfo
from raygen.evaluation.record import Evaluation, Measured

EVIL = "<script>alert(1)</script>"


def entry(name: str, seed: int, n: int = 100, **values: float) -> Entry:
    """A run with figures. Args: values: by tag, with __ for /, and _vgg for random-vgg."""
    metrics = {
        tag.replace("__", "/").replace("vgg", "random-vgg"): Measured(
            value, value - 1, value + 1, 0.5, 99.0, n, "random-vgg" if "vgg" in tag else ""
        )
        for tag, value in values.items()
    }
    config: dict[str, Any] = {"preset": name, "seed": seed, "lr_g": 1e-4}
    run = RunInfo(f"runs/{name}-{seed}", f"{name}-{seed}", "training", preset=name, config=config)
    about = {"step": 4, "samples": n, "notes": ["a note"]}
    return Entry(run, None, Evaluation(next(iter(metrics)), metrics, about) if metrics else None)


def contender(name: str, *entries: Entry) -> Contender:
    return Contender(name, {"preset": name, "lr_g": 1e-4}, entries)


def some() -> list[Contender]:
    """A is better than B in fidelity and worse in coverage, and C has no figures."""
    a = [
        entry("a", seed, vgg__fd=10 + seed, vgg__coverage=0.5 + seed / 100, swd__by_real=50 - seed)
        for seed in range(3)
    ]
    b = [
        entry("b", seed, vgg__fd=30 + seed, vgg__coverage=0.8 + seed / 100, swd__by_real=49 + seed)
        for seed in range(3)
    ]
    broken = Entry(entry(EVIL, 0).run, None, None, "has no checkpoint yet")
    return [contender("a", *a), contender(f"b {EVIL}", *b), contender(f"c {EVIL}", broken)]
