"""Train a model on a Ray cluster, or on this machine if there is none.

python jobs/train.py dcgan-celeba --data data/celeba-32 --steps 1500
"""

import sys
from collections.abc import Sequence

from raygen.cli import TrainCommand, named_options, parse_run, run_job

ABOUT = (
    "Train a model. The same command again resumes the run. dcgan-celeba on drawn faces, without "
    "--width, --drawn-count, --steps and --epochs, is a first run: its size and length are chosen "
    "such that this machine is done in about three minutes."
)


def main(argv: Sequence[str]) -> None:
    command = parse_run(TrainCommand, argv, ABOUT)
    # Import late, because it takes seconds, for which --help and mistakes should not wait.
    from raygen.jobs.train import train

    train(command, named_options(argv), argv)


if __name__ == "__main__":
    sys.exit(run_job(main))
