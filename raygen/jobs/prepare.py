"""Prepare images as datasets, and show datasets: the work of `jobs/prepare.py`."""

import contextlib
import time
from collections import Counter
from dataclasses import replace
from functools import singledispatch

from raygen.cli import command_line
from raygen.cluster import connection as cluster
from raygen.config.run import PRESETS
from raygen.core.destination import file_to_write, folder_to_write
from raygen.core.errors import Interrupted, RunError, UserError
from raygen.core.printable import printable
from raygen.core.progress import ProgressLine, describe
from raygen.core.retry import OUTAGES
from raygen.core.storage import Folder
from raygen.data.file_types import remedies
from raygen.data.inspect import contact_sheet, most_cells, table, verify
from raygen.data.options import (
    AnimeOptions,
    CelebAOptions,
    DrawnOptions,
    FolderOptions,
    HuggingFaceOptions,
    PrepareOptions,
    ShowOptions,
)
from raygen.data.prepare.parts import Target
from raygen.data.prepare.prepare import as_begun, check_folder, is_finished, prepare
from raygen.data.shards.manifest import MANIFEST, Manifest
from raygen.data.sources.download import download_celeba
from raygen.data.sources.drawn import DrawnFaces
from raygen.data.sources.huggingface import huggingface
from raygen.data.sources.image_files import celeba, folder
from raygen.data.sources.source import Source
from raygen.data.splits import NO_TEST, TEST
from raygen.evaluation.grids import encode_png

SHOWN_REASONS = 3
FILES_REMEDY = "name the folder, zip or tar of the images"


def prepare_dataset(options: PrepareOptions, line: ProgressLine | None = None) -> list[Manifest]:
    """Prepare a dataset for each size; finished parts of one are kept.

    Args: line: shows the progress; None: on the terminal.
    Returns: the manifest of each size's dataset.
    Raises: UserError, RunError, Interrupted.
    """
    if not options.out:
        raise UserError("--out: is required; name the folder or URI for the dataset")
    place, images = folder_to_write("--out", options.out), options.images_wanted
    several = len(images) > 1
    targets = [Target(place.join(image.size) if several else place, image) for image in images]
    line, before = line or ProgressLine(), OUTAGES.retries
    try:
        line.show("listing the images")
        source = open_source(options)
        for note in source.notes:
            line.tell(printable(note))
        usual = source
        source = source if options.restart else as_begun(source, targets)
        about = source.description()
        ready = not options.restart and all(is_finished(about, target) for target in targets)
        # Check the folders before Ray is started; `prepare` checks them again once it owns them.
        for target in targets:
            check_folder(target.folder)
        if not ready:
            line.show("starting Ray")
        with (
            OUTAGES.told_to(line.warn),
            contextlib.nullcontext() if ready else cluster.connected(options.verbose),
        ):
            if not ready:
                cluster.check_shared(source_places(options), {"--out": place})
            # All storages have answered once. From now on, outages are waited for.
            patience = options.patience
            manifests = prepare(
                source.patient(patience),
                [replace(target, folder=target.folder.patient(patience)) for target in targets],
                options.num_workers,
                lambda done, total, rate: line.show(f"preparing: {describe(done, total, rate)}"),
                options.allowed(len(source.ids)),
                options.restart,
                line.show,
            )
        if ready:
            kept = "these images are already prepared"
        else:
            kept = f"{place.uri}: went on as it was begun"
        if source is not usual:
            line.tell(
                f"{kept}, without a test split; --restart prepares the images again, with one"
            )
        elif ready:
            line.tell(f"{kept}; --restart does it again")
    except KeyboardInterrupt:
        line.close()
        raise Interrupted(
            "interrupted: the same command, without --restart, goes on with what is missing"
        ) from None
    finally:
        line.close()
    for target, manifest in zip(targets, manifests, strict=True):
        report(target.folder, manifest, line)
    retries = OUTAGES.retries.since(before)
    if retries.requests:
        line.tell(f"storage: {retries}")
    return manifests


@singledispatch
def open_source(options: PrepareOptions) -> Source:
    """The source of images that the options describe. Raises: UserError."""
    raise NotImplementedError(type(options).__name__)


@open_source.register
def _(options: DrawnOptions) -> Source:
    return DrawnFaces(options.count, options.seed, options.tested)


@open_source.register
def _(options: CelebAOptions) -> Source:
    if options.download:
        if options.images or options.attributes or options.partition:
            raise UserError("--download: brings images and tables with it; leave theirs out")
        return celeba(*download_celeba(options.download), options.tested)
    require_path("--images", options.images, "name CelebA's img_align_celeba.zip")
    require_path("--attributes", options.attributes, "name CelebA's list_attr_celeba.csv")
    return celeba(options.images, options.attributes, options.partition, options.tested)


@open_source.register
def _(options: HuggingFaceOptions) -> Source:
    require_path("--images", options.images, "name the folder that save_to_disk wrote")
    return huggingface(
        options.images, options.validation_share, options.keep_attributes, options.tested
    )


@open_source.register
def _(options: AnimeOptions) -> Source:
    require_path("--images", options.images, FILES_REMEDY)
    keep_splits = not options.ignore_split_folders
    return folder(
        options.images,
        options.validation_share,
        kind="anime",
        keep_splits=keep_splits,
        test_share=options.tested,
    )


@open_source.register
def _(options: FolderOptions) -> Source:
    require_path("--images", options.images, FILES_REMEDY)
    if options.keep_attributes and not options.labels:
        raise UserError("--keep-attributes: needs --labels, which makes attributes of folders")
    return folder(
        options.images,
        options.validation_share,
        options.labels,
        keep_splits=not options.ignore_split_folders,
        chosen=options.keep_attributes,
        test_share=options.tested,
    )


def source_places(options: PrepareOptions) -> dict[str, Folder]:
    """The files and folders that the cluster's machines read, by option."""
    given = {
        "--download": getattr(options, "download", ""),
        "--images": getattr(options, "images", ""),
    }
    return {option: Folder.at(path) for option, path in given.items() if path}


def require_path(option: str, value: str, remedy: str) -> None:
    """Raises: UserError if no path was given."""
    if not value:
        raise UserError(f"{option}: is required; {remedy}")


def report(place: Folder, manifest: Manifest, line: ProgressLine) -> None:
    """Print what a dataset holds, which images were left out, and how to train on it."""
    files = manifest.files
    counts = [f"{manifest.rows(split):,} {split}" for split in manifest.splits]
    size = sum(file.bytes for file in files) / 1e6
    line.tell(
        f"{', '.join(counts[:-1])} and {counts[-1]} images of {manifest.size} in {len(files)} "
        f"files, {size:,.1f} MB: {place.uri}"
    )
    if not manifest.rows(TEST):
        line.tell(f"test split: {NO_TEST}")
    if manifest.rejected:
        reasons = Counter(entry["reason"] for entry in manifest.rejected).most_common()
        shown = []
        for reason, count in reasons[:SHOWN_REASONS]:
            first = next(e["id"] for e in manifest.rejected if e["reason"] == reason)
            more = f" and {count - 1:,} more" if count > 1 else ""
            shown.append(printable(f"{first} ({reason}){more}"))
        more = "; ..." if len(reasons) > SHOWN_REASONS else ""
        line.tell(f"rejected {len(manifest.rejected):,}: {'; '.join(shown)}{more}")
        line.tell(f"all rejected images are listed in {place.join(MANIFEST).uri}")
    ignored = manifest.ignored
    if ignored:
        more = f" and {len(ignored) - 1:,} more" if len(ignored) > 1 else ""
        line.tell(f"ignored, as they are no images: {printable(ignored[0])}{more}")
    for sentence in remedies(ignored):
        line.tell(f"among them {sentence}")
    fitting = [name for name, run in PRESETS.items() if run.size == manifest.size]
    for name in fitting:
        line.tell(f"train on it: {command_line('jobs/train.py', name, '--data', place.uri)}")
    if not fitting:
        able = [name for name, run in PRESETS.items() if run.fits(manifest.height, manifest.width)]
        for name in able:
            again = [name, "--data", place.uri, "--size", manifest.size]
            line.tell(f"train on it: {command_line('jobs/train.py', *again)}")


def show(options: ShowOptions) -> None:
    """Print a dataset's manifest, and write a picture of some of its images.

    Raises: UserError if there is no dataset; RunError if it is damaged.
    """
    if not options.data:
        raise UserError("DIR: is required; name the folder or URI of a dataset")
    place = Folder.at(options.data)
    manifest = Manifest.load(place, "DIR")
    out = file_to_write("--out", options.out, f"{place.name}-images.png") if options.count else None
    most = most_cells(manifest)
    if options.count > most:
        raise UserError(
            f"--count {options.count}: a picture has room for {most:,} images of {manifest.size}; "
            "show less"
        )
    print(table(place, manifest))
    if options.verify:
        check(place, manifest)
    if out:
        sheet = contact_sheet(place, manifest, options.count, options.seed)
        out.parent.write_bytes(out.name, encode_png(sheet))
        print(f"picture:     {out.uri}")


def check(place: Folder, manifest: Manifest) -> None:
    """Check all files of a dataset. Raises: RunError if some differ from the manifest."""
    line = ProgressLine()
    started = time.monotonic()

    def progress(done: int, total: int) -> None:
        rate = done / 1e6 / max(time.monotonic() - started, 1e-6)
        line.show(f"verifying: {describe(done // 10**6, total // 10**6, rate, 'MB')}")

    try:
        problems = verify(place, manifest, progress)
    finally:
        line.close()
    if problems:
        more = f"\nand {len(problems) - 5:,} more" if len(problems) > 5 else ""
        text = "\n".join(problems[:5])
        raise RunError(f"{text}{more}\ncopy the dataset again, or prepare it again with --restart")
    print("verified:    every file is as it was prepared")
