"""Writes a source as datasets: decodes each image once, and writes it in every wanted size.

The contents of each file depend on the source and the options alone, so the result is the same for
any number of CPUs.

While a dataset is being made, a folder `.prepare` in it holds the plan and a record of each
finished file, written after the file itself. A preparation that was interrupted goes on from
there; the folder is deleted once the manifest is written.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from raygen.cluster.lease import only_owner
from raygen.core import marker
from raygen.core.errors import ShardError, UserError
from raygen.core.parallel import parallel
from raygen.core.storage import Folder
from raygen.data.prepare.parts import (
    RECORDS,
    File,
    ProgressCallback,
    Record,
    Target,
    make_all,
    plan_parts,
)
from raygen.data.shards.manifest import MANIFEST, MANIFEST_BYTES, Manifest, ShardFile
from raygen.data.sources.files import UNREADABLE
from raygen.data.sources.source import Source
from raygen.data.splits import TEST

PLAN = "plan.json"
SHARD = r"\w+-\d{5}\.parquet"
OWN = re.compile(rf"{re.escape(MANIFEST)}|{SHARD}|{re.escape(RECORDS)}")
"""Matches the names that raygen writes into a dataset's folder. All others are the user's."""
_START_OVER = "start over with --restart"
PIXELS_VERSION = 3
"""Version of the decoding; a dataset begun under another one is not continued."""


def prepare(
    source: Source,
    targets: Sequence[Target],
    expected_workers: int = 4,
    progress: ProgressCallback | None = None,
    allowed: int | None = None,
    restart: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Manifest]:
    """Write a source as datasets, in parallel on the Ray cluster, as the only owner of the folders.

    A folder that already holds its dataset is left as it is; an unfinished dataset is completed.

    Args:
        expected_workers: number of training workers; each split gets at least 4 files for each.
        progress: see `make_all`.
        allowed: how many images may be left out because they cannot be read; None: any number.
        restart: whether to delete the folders' datasets first, after all checks.
        tell: called with a line about what the preparation waits for.
    Returns: the manifest of each target.
    Raises: UserError if a folder holds another dataset or something else, cannot be written, or
        belongs to another job, or if too many images were left out; RunError if writing fails
        later. Finished files are kept.
    """
    _check_attributes(source.attributes)
    about = source.description()
    if not restart and all(is_finished(about, target) for target in targets):
        # Nothing will be written, so neither a lease nor write permission is needed.
        return write_datasets(source, targets, expected_workers, progress, allowed)
    with contextlib.ExitStack() as stack:
        owned = []
        # All jobs acquire leases in the same order, so that they cannot deadlock.
        for target in sorted(targets, key=lambda target: target.folder.path):
            lease = stack.enter_context(only_owner(target.folder, "--out", tell))
            owned.append(dataclasses.replace(target, fence=lease.fence))
        owned.sort(key=lambda target: [other.folder for other in targets].index(target.folder))
        for target in owned:
            check_folder(target.folder)
        for target in owned if restart else ():
            _check_owner(target)
            delete_dataset(target.folder)
        return write_datasets(source, owned, expected_workers, progress, allowed)


def write_datasets(
    source: Source,
    targets: Sequence[Target],
    expected_workers: int = 4,
    progress: ProgressCallback | None = None,
    allowed: int | None = None,
) -> list[Manifest]:
    """Write the datasets as `prepare` does, for a caller that owns the folders already."""
    about = source.description()
    found = [find_prepared(about, target) for target in targets]
    sizes = tuple(target.image.size for target in targets)
    plan = {
        "pixels_version": PIXELS_VERSION,
        "source": about,
        "expected_workers": expected_workers,
        "decoded_for": list(sizes),
    }
    parts = plan_parts(
        source.splits(), [target.image_bytes for target in targets], expected_workers
    )
    records: list[dict[str, Record]] = []
    for target, manifest in zip(targets, found, strict=True):
        records.append({} if manifest else _begin(target, plan | dataclasses.asdict(target.image)))

    missing = [
        [
            [file for file in files if not manifest and file.name not in known]
            for files, manifest, known in zip(part, found, records, strict=True)
        ]
        for part in parts
    ]
    made = make_all(source, targets, [part for part in missing if any(part)], progress)
    for known, new in zip(records, made, strict=True):
        known |= new

    manifests = []
    for number, (target, manifest) in enumerate(zip(targets, found, strict=True)):
        if not manifest:
            files = [file for part in parts for file in part[number]]
            manifest = _manifest(source, about, target, sizes, files, records[number])
        if allowed is not None and len(manifest.rejected) > allowed:
            raise _too_many(manifest, len(source.ids), allowed)
        manifests.append(manifest)
    for target, manifest, before in zip(targets, manifests, found, strict=True):
        if not before:
            _check_owner(target)
            target.folder.write_json(MANIFEST, manifest.to_json())
        if not before or target.records.exists():
            _check_owner(target)
            target.records.delete()
            target.folder.delete_temporary()
    return manifests


def _check_owner(target: Target) -> None:
    """Raises: RunError if the job has lost the folder to another one."""
    if target.fence:
        target.fence.check()


def is_finished(about: dict[str, Any], target: Target) -> bool:
    """Whether the folder holds exactly this dataset, and its records have been deleted.

    Args: about: the source's description.
    Raises: UserError if the folder holds another dataset.
    """
    return find_prepared(about, target) is not None and not target.records.exists()


def as_begun(source: Source, targets: Sequence[Target]) -> Source:
    """The source, divided as in the datasets that the folders hold already, finished or not.

    Datasets of versions that made no test split stay as they are, and are completed as they were
    begun, together with those of other sizes.
    """
    held = [found for found in map(_held, targets) if found]
    older = source.without_test() if held else None
    if older and older.description() in held and source.description() not in held:
        return older
    return source


def _held(target: Target) -> Any:
    """The description of the source whose dataset a folder holds, finished or not, or None.

    Raises: ShardError if it is damaged.
    """
    known = marker.read(target.folder)
    if known and known.deleting:
        return None
    if target.folder.exists(MANIFEST):
        return Manifest.load(target.folder, "--out").source
    if target.records.exists(PLAN):
        plan = target.records.read_checked(PLAN, ShardError, _START_OVER)
        return plan.optional("source") and plan.entry("source").value
    return None


def find_prepared(about: dict[str, Any], target: Target) -> Manifest | None:
    """The manifest of the folder's dataset if it is exactly this one; None if there is none.

    Args: about: the source's description.
    Raises: UserError if the folder holds another dataset.
    """
    folder = target.folder
    known = marker.read(folder)
    if (known and known.deleting) or not folder.exists(MANIFEST):
        return None
    present = Manifest.load(folder, "--out")
    if present.source == about and present.image == target.image:
        return present
    raise UserError(
        f"--out {folder.uri}: already holds another dataset ({present.source.get('count', 0):,} "
        f"images of {present.source.get('kind')} in {present.size}); choose another folder, or "
        "replace it with --restart"
    )


def _check_attributes(names: Sequence[str]) -> None:
    """Raises: UserError if names of attributes are empty or not unique."""
    for number, name in enumerate(names):
        if not name or name in names[:number]:
            problem = "appears twice" if name else "is empty"
            raise UserError(
                f"the name of attribute {number + 1}, {name!r}, {problem}; rename it in the table, "
                "the subfolder or the column that it comes from"
            )


def check_folder(folder: Folder) -> None:
    """Raises: UserError if the folder holds files of others that raygen would overwrite."""
    known = marker.read(folder)
    if known and known.raygen != "dataset":
        raise UserError(f"--out {folder.uri}: holds a {known.raygen}; choose another folder")
    if known or _is_older_dataset(folder):
        return
    in_the_way = [name for name in folder.names() if OWN.fullmatch(name)]
    if in_the_way:
        raise UserError(
            f"--out {folder.uri}: holds {in_the_way[0]}, which raygen did not write, and which is "
            "not touched; choose another folder"
        )


def _is_older_dataset(folder: Folder) -> bool:
    """Whether a folder holds a dataset of an earlier version, which left no marker."""
    try:
        if folder.exists(MANIFEST):
            values = folder.read_json(MANIFEST)
            return isinstance(values, dict) and {"format_version", "splits"} <= values.keys()
    except UserError:
        return False
    return folder.join(RECORDS).exists(PLAN)


def delete_dataset(folder: Folder) -> None:
    """Delete raygen's files of a dataset, and nothing else in the folder.

    An interrupted deletion is finished by the next preparation in the folder.

    Raises: UserError if the folder holds something other than a dataset.
    """
    check_folder(folder)
    if any(OWN.fullmatch(name) for name in folder.names()):
        marker.delete_contents(folder, "dataset", OWN)
        marker.write(folder, "dataset")


def _begin(target: Target, plan: dict[str, Any]) -> dict[str, Record]:
    """Begin a dataset, or continue it.

    Returns: the records of the finished files by name.
    Raises: UserError if the folder holds something else, or cannot be written.
    """
    records = target.records
    check_folder(target.folder)
    before = marker.read(target.folder)
    if before and before.deleting:
        delete_dataset(target.folder)
    if records.exists(PLAN):
        if records.read_checked(PLAN, ShardError, _START_OVER).value != plan:
            raise UserError(
                f"--out {target.folder.uri}: holds a half-made dataset of other images or "
                "options; choose another folder, or replace it with --restart"
            )
        # Killed processes leave temporary files behind; only complete records count.
        names = [name for name in records.names() if name.endswith(".parquet.json")]
        sizes = target.folder.sizes()
        read = parallel(lambda name: _record(target, name), names)
        known = dict(zip((name.removesuffix(".json") for name in names), read, strict=True))
        return {name: record for name, record in known.items() if _holds(record, sizes)}
    target.folder.check_writable()
    marker.write(target.folder, "dataset")
    records.write_json(PLAN, plan)
    return {}


def _record(target: Target, name: str) -> Record:
    """Read the record of a finished file. Raises: ShardError if it is damaged."""
    advice = "delete this file, and what it tells of is made again"
    values = target.records.read_checked(name, ShardError, advice, MANIFEST_BYTES)
    record = Record.from_json(values, target.image_bytes)
    if record.file and f"{record.file.name}.json" != name:
        values.entry("file").entry("name").fail(f"that of the record, {name.removesuffix('.json')}")
    return record


def _holds(record: Record, sizes: dict[str, int]) -> bool:
    """Whether a finished file need not be made again.

    Args: sizes: sizes of the folder's files by name, in bytes.
    """
    # Images that could not be read, for example for lack of permission, may be readable now.
    if any(entry["reason"].startswith(UNREADABLE) for entry in record.rejected):
        return False
    return record.file is None or sizes.get(record.file.name) == record.file.bytes


def _manifest(
    source: Source,
    about: dict[str, Any],
    target: Target,
    sizes: tuple[str, ...],
    files: list[File],
    records: dict[str, Record],
) -> Manifest:
    """Build a dataset's manifest.

    A test split none of whose images could be read is left out.

    Raises: UserError if another split is left without images.
    """
    splits: dict[str, tuple[ShardFile, ...]] = {}
    for split in source.splits():
        made = [records[file.name] for file in files if file.split == split]
        splits[split] = tuple(record.file for record in made if record.file)
        rejected = [entry for record in made for entry in record.rejected]
        if not splits[split] and split == TEST:
            del splits[split]
        elif not splits[split] and rejected:
            raise UserError(
                f"no image for {split} could be read; the first, {rejected[0]['id']}: "
                f"{rejected[0]['reason']}"
            )
    return Manifest(
        height=target.image.height,
        width=target.image.width,
        attributes=source.attributes,
        splits=splits,
        source=about,
        crop=target.image.crop,
        rejected=tuple(entry for file in files for entry in records[file.name].rejected),
        decoded_for=sizes,
        ignored=tuple(source.ignored),
    )


def _too_many(manifest: Manifest, total: int, allowed: int) -> UserError:
    shown = [f"{entry['id']} ({entry['reason']})" for entry in manifest.rejected[:3]]
    count = len(manifest.rejected)
    return UserError(
        f"--max-rejected: {count:,} of {total:,} images cannot be read, {allowed:,} may be left "
        f"out: {', '.join(shown)}{', ...' if count > len(shown) else ''}; with "
        f"--max-rejected {count}, without --restart, the same command ends at once, as all else is "
        "done; or mend or remove them and start over with --restart"
    )
