"""Draw with a trained model: samples, reconstructions, attributes turned down and up.

python jobs/sample.py runs/vae-celeba -n 64 --seed 7 --out grid.png
python jobs/sample.py runs/vae-celeba --reconstruct photo.jpg --fit
python jobs/sample.py runs/vae-celeba --attribute Smiling --strength -2:2:5
"""

import sys
from collections.abc import Sequence

from raygen.cli import given_options, parse_options, run_job
from raygen.core.errors import UserError
from raygen.inference.options import SampleOptions


def main(argv: Sequence[str]) -> None:
    options = parse_options(SampleOptions, argv, "Draw with a trained model.")
    if options.reconstruct and options.attribute:
        raise UserError("--reconstruct and --attribute: choose one of them")
    if not options.reconstruct and "reconstruct" in given_options(argv):
        raise UserError("--reconstruct: names no image; name one or more image files")
    # Import late, because it takes seconds, for which --help and mistakes should not wait.
    from raygen.jobs.sample import sample

    sample(options)


if __name__ == "__main__":
    sys.exit(run_job(main))
