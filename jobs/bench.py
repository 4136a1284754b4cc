"""Measure raygen on this machine: each figure is a ratio of two timings of one run.

python jobs/bench.py ingest
python jobs/bench.py sweep
python jobs/bench.py start
python jobs/bench.py scaling
python jobs/bench.py step
python jobs/bench.py evaluate
python jobs/bench.py soak
"""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from raygen.benchmarks.options import (
    BenchOptions,
    EvaluateBenchOptions,
    IngestBenchOptions,
    ScalingOptions,
    SoakOptions,
    StartBenchOptions,
    StepBenchOptions,
    SweepBenchOptions,
)
from raygen.cli import parse_choice, run_job

SUBCOMMANDS: dict[str, type[BenchOptions]] = {
    "ingest": IngestBenchOptions,
    "sweep": SweepBenchOptions,
    "start": StartBenchOptions,
    "scaling": ScalingOptions,
    "step": StepBenchOptions,
    "evaluate": EvaluateBenchOptions,
    "soak": SoakOptions,
}


def main(argv: Sequence[str]) -> None:
    options = parse_choice(SUBCOMMANDS, argv, "Measure raygen on this machine.")
    # Import late, because it takes seconds, for which --help and mistakes should not wait.
    import torch

    from raygen.benchmarks.evaluate import evaluate
    from raygen.benchmarks.ingest import ingest
    from raygen.benchmarks.scaling import tables
    from raygen.benchmarks.soak import soak
    from raygen.benchmarks.start import start
    from raygen.benchmarks.step import step
    from raygen.benchmarks.sweep import sweep

    if isinstance(options, ScalingOptions):
        print(tables())
        return
    name = argv[0]
    place, jobs = Path(options.storage).absolute(), Path(__file__).absolute().parent
    place.mkdir(parents=True, exist_ok=True)
    if isinstance(options, SweepBenchOptions):
        figures = sweep(options, place, jobs)
    elif isinstance(options, StartBenchOptions):
        figures = start(options, place, jobs)
    elif isinstance(options, StepBenchOptions):
        figures = step(options)
    elif isinstance(options, SoakOptions):
        figures = soak(options, place, jobs)
    elif isinstance(options, EvaluateBenchOptions):
        figures = evaluate(options)
    else:
        assert isinstance(options, IngestBenchOptions)
        figures = ingest(options, place, jobs)
    print("\n".join(str(figure) for figure in figures))
    machine = {"cpus": os.cpu_count(), "platform": platform.platform(), "torch": torch.__version__}
    results = [asdict(figure) | {"met": figure.met} for figure in figures]
    text = json.dumps(
        {"machine": machine, "options": asdict(options), "figures": results}, indent=2
    )
    out = Path(options.out or place / f"{name}.json")
    out.write_text(text + "\n")
    print(f"as JSON: {out}")


if __name__ == "__main__":
    sys.exit(run_job(main))
