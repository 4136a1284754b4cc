"""Search for better hyperparameters of a preset, on a Ray cluster or on this machine.

python jobs/tune.py dcgan-celeba --data data/celeba-32 --steps 500 --trials 24
python jobs/tune.py dcgan-celeba --resume
python jobs/train.py --config runs/dcgan-celeba-sweep/best.json --run-name tuned
"""

import sys
from collections.abc import Sequence

from raygen.cli import TuneCommand, parse_run, run_job
from raygen.tuning.options import TRIAL_DEFAULTS

ABOUT = "Search for better hyperparameters."


def main(argv: Sequence[str]) -> None:
    command = parse_run(TuneCommand, argv, ABOUT, "-sweep", saved=TRIAL_DEFAULTS)
    # Import late, because it takes seconds, for which --help and mistakes should not wait.
    from raygen.jobs.tune import resumed, tune

    tune(resumed(command, argv) if command.sweep.resume else command)


if __name__ == "__main__":
    sys.exit(run_job(main))
