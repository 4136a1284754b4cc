"""Turn images as they are distributed into a dataset that jobs/train.py reads.

python jobs/prepare.py celeba --images img_align_celeba.zip --attributes list_attr_celeba.csv \
    --size 218x178 --size 32 --out data/celeba
python jobs/prepare.py anime --images anime-sprites.zip --size 64 --out data/anime-64
python jobs/prepare.py folder --images photos/ --labels --size 64 --out data/photos
python jobs/prepare.py show data/anime-64 --verify
"""

import sys
from collections.abc import Sequence

from raygen.cli import parse_choice, run_job
from raygen.data.options import SUBCOMMANDS, ShowOptions


def main(argv: Sequence[str]) -> None:
    options = parse_choice(SUBCOMMANDS, argv, "Prepare images for training.")
    # Import late, because it takes seconds, for which --help and mistakes should not wait.
    from raygen.jobs.prepare import prepare_dataset, show

    if isinstance(options, ShowOptions):
        show(options)
    else:
        prepare_dataset(options)


if __name__ == "__main__":
    sys.exit(run_job(main))
