"""Measure trained models on images that nothing was chosen on.

python jobs/evaluate.py runs/dcgan-celeba runs/vae-celeba
python jobs/evaluate.py --images samples/ --data data/celeba-64
"""

import sys
from collections.abc import Sequence

from raygen.cli import parse_options, run_job
from raygen.inference.options import EvaluateOptions


def main(argv: Sequence[str]) -> None:
    options = parse_options(EvaluateOptions, argv, "Measure trained models, or any images.")
    # Import late, because it takes seconds, for which --help and mistakes should not wait.
    from raygen.jobs.evaluate import evaluate

    evaluate(options)


if __name__ == "__main__":
    sys.exit(run_job(main))
