"""Turn images as they are distributed into a dataset that jobs/train.py reads.

python jobs/prepare.py celeba --images img_align_celeba.zip --attributes list_attr_celeba.csv \
    --size 32 --out data/celeba-32
python jobs/prepare.py anime --images anime-sprites.zip --size 64 --out data/anime-64
"""

import sys
from collections.abc import Sequence

from raygen import cluster
from raygen.cli import command_line, parse_choice, run_job
from raygen.config import PRESETS
from raygen.data.shards import MANIFEST, Manifest, find_prepared, prepare
from raygen.data.sources import AnimeFaces, CelebA, DrawnFaces, Source
from raygen.errors import UserError
from raygen.job_options import AnimeOptions, CelebAOptions, DrawnOptions, PrepareOptions
from raygen.progress import ProgressLine, describe
from raygen.storage import Folder

KINDS: dict[str, type[PrepareOptions]] = {
    "celeba": CelebAOptions,
    "anime": AnimeOptions,
    "drawn": DrawnOptions,
}
SHOWN_REJECTIONS = 3


def main(argv: Sequence[str]) -> None:
    options = parse_choice(KINDS, argv, "Prepare images for training.")
    if not options.out:
        raise UserError("--out: is required; name the folder or URI for the dataset")
    image = options.image
    source = open_source(options)
    folder = Folder.at(options.out)
    present = None if options.restart else find_prepared(source, folder, image)
    if present:
        print("these images are already prepared; --restart does it again")
        report(folder, present)
        return
    line = ProgressLine()
    line.show("starting Ray")
    with cluster.connected(options.verbose):
        try:
            manifest = prepare(
                source,
                folder,
                image,
                options.num_workers,
                lambda done, total, rate: line.show(f"preparing: {describe(done, total, rate)}"),
                options.restart,
            )
        finally:
            line.close()
    report(folder, manifest)


def open_source(options: PrepareOptions) -> Source:
    """Raises: UserError."""
    if isinstance(options, DrawnOptions):
        return DrawnFaces(options.drawn_count, options.seed)
    if isinstance(options, AnimeOptions):
        if not options.images:
            raise UserError("--images: is required; name the zip or the folder of the images")
        return AnimeFaces.open(options.images)
    assert isinstance(options, CelebAOptions)
    for name, value, example in (
        ("--images", options.images, "img_align_celeba.zip"),
        ("--attributes", options.attributes, "list_attr_celeba.csv"),
    ):
        if not value:
            raise UserError(f"{name}: is required; name CelebA's {example}")
    return CelebA.open(options.images, options.attributes)


def report(folder: Folder, manifest: Manifest) -> None:
    """Say what the dataset holds, what was left out, and how to use it."""
    files = [file for split in manifest.splits.values() for file in split]
    counts = " and ".join(f"{manifest.rows(split):,} {split}" for split in manifest.splits)
    size = sum(file.bytes for file in files) / 1e6
    print(f"{counts} images of {manifest.size} in {len(files)} files, {size:,.1f} MB: {folder.uri}")
    if manifest.rejected:
        shown = [f"{entry['id']} ({entry['reason']})" for entry in manifest.rejected]
        more = ", ..." if len(shown) > SHOWN_REJECTIONS else ""
        print(f"rejected {len(shown):,}: {', '.join(shown[:SHOWN_REJECTIONS])}{more}")
        print(f"all rejected images are listed in {folder.join(MANIFEST).uri}")
    fitting = [name for name, preset in PRESETS.items() if preset.image.size == manifest.size]
    for name in fitting:
        print(f"train on it: {command_line('jobs/train.py', name, '--data', folder.uri)}")
    if not fitting:
        sizes = ", ".join(f"{name} {preset.image.size}" for name, preset in PRESETS.items())
        print(f"no preset trains on {manifest.size} images; they need: {sizes}")


if __name__ == "__main__":
    sys.exit(run_job(main))
