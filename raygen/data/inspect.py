"""Shows and checks a dataset: its manifest as a table, its checksums, and a sheet of images."""

import hashlib
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from raygen.core.errors import Unreadable
from raygen.core.printable import printable
from raygen.core.remote_file import PIECE_BYTES
from raygen.core.storage import Folder, unreadable
from raygen.data.shards.manifest import Manifest, ShardFile
from raygen.data.shards.reader import ShardReader
from raygen.data.splits import NO_TEST, TEST

THREADS = 8
SHOWN_REASONS = 5
SHOWN_NAMES = 3
CELL = 144
"""Target width of a sheet's column, in pixels; smaller images are enlarged to about this width."""
HIGHEST = 2_048
"""Images are enlarged to at most this height, in pixels."""
MARGIN, FONT_SIZE, LINE = 6, 11, 14
MAX_LINES = 6
MOST_PIXELS = 10**8
"""Largest area of a sheet, in pixels, because the whole sheet is held in memory."""


def table(folder: Folder, manifest: Manifest) -> str:
    """Format a manifest as a table for users."""
    source = manifest.source
    rows = [
        ("dataset", folder.uri),
        ("images", f"{manifest.size} (height x width) RGB, uint8"),
        ("crop", f"{manifest.crop} pixels, centred" if manifest.crop else "none"),
        (
            "source",
            ", ".join(f"{k} {source[k]}" for k in ("kind", "images", "seed") if k in source),
        ),
    ]
    for split, files in manifest.splits.items():
        if split == TEST and not files:
            continue
        size = sum(file.bytes for file in files) / 1e6
        rows.append(
            (split, f"{manifest.rows(split):,} images in {len(files)} files, {size:,.1f} MB")
        )
    if not manifest.rows(TEST):
        rows.append((TEST, NO_TEST))
    rows.append(("attributes", ", ".join(manifest.attributes) or "none"))
    reasons = Counter(entry["reason"] for entry in manifest.rejected).most_common()
    rows.append(("rejected", f"{len(manifest.rejected):,}"))
    for reason, count in reasons[:SHOWN_REASONS]:
        names = [entry["id"] for entry in manifest.rejected if entry["reason"] == reason]
        rows.append(("", f"{count:,} x {reason}: {_some(names)}"))
    ignored = _some(list(manifest.ignored))
    rows.append(("ignored", f"{len(manifest.ignored):,}{': ' if ignored else ''}{ignored}"))
    rows.append(("fingerprint", manifest.fingerprint))
    return "\n".join(printable(f"{name:12} {text}") for name, text in rows)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")


def verify(
    folder: Folder,
    manifest: Manifest,
    progress: Callable[[int, int], None] | None = None,
    splits: Collection[str] | None = None,
) -> list[str]:
    """Compare each file's SHA-256 with the manifest's.

    Args:
        progress: called with bytes read and bytes in total.
        splits: the splits whose files are read; None: all.
    Returns: a line for each damaged or missing file.
    Raises: Unreadable if a file exists but cannot be read.
    """
    files = [
        file
        for split, those in manifest.splits.items()
        if splits is None or split in splits
        for file in those
    ]
    total, done = sum(file.bytes for file in files), 0
    problems = []
    with ThreadPoolExecutor(THREADS) as pool:
        checks = pool.map(lambda file: _problem(folder, file), files)
        for file, problem in zip(files, checks, strict=True):
            if problem:
                problems.append(f"{folder.join(file.name).uri}: {problem}")
            done += file.bytes
            if progress:
                progress(done, total)
    return problems


def _problem(folder: Folder, file: ShardFile) -> str:
    """Describe a file's damage; empty if there is none. Raises: Unreadable."""

    def digest() -> str:
        found = hashlib.sha256()
        with folder.join(file.name).open_file() as opened:
            while data := opened.read(PIECE_BYTES):
                found.update(data)
        return found.hexdigest()

    try:
        same = folder.patiently(digest) == file.sha256
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        # A file that cannot be read need not be damaged.
        raise unreadable(folder.join(file.name).uri, error, Unreadable) from error
    return "" if same else "its content is not what was prepared"


def most_cells(manifest: Manifest) -> int:
    """The largest number of images that a sheet has room for."""
    enlarge = max(1, round(CELL / manifest.width))
    text = LINE * MAX_LINES
    cell = (manifest.width * enlarge + MARGIN) * (manifest.height * enlarge + MARGIN + text)
    return max(1, MOST_PIXELS // cell)


def contact_sheet(folder: Folder, manifest: Manifest, count: int, seed: int) -> np.ndarray:
    """Random images of all splits, each with its id and the attributes that are true of it.

    Returns: (height, width, 3) uint8.
    Raises: ShardError.
    """
    random = np.random.default_rng(seed)
    total = sum(manifest.rows(split) for split in manifest.splits)
    chosen = np.sort(random.choice(total, min(count, total), replace=False))
    cells: list[tuple[np.ndarray, list[str]]] = []
    first = 0
    for split in manifest.splits:
        stop = first + manifest.rows(split)
        rows = chosen[(chosen >= first) & (chosen < stop)] - first
        first = stop
        if not len(rows):
            continue
        reader = ShardReader(folder, manifest, split)
        for pixels, name, values in zip(reader.images(rows), *reader.labels(rows), strict=True):
            true = [a for a, value in zip(manifest.attributes, values, strict=True) if value == 1]
            cells.append((pixels, [printable(f"{name} ({split})"), printable(", ".join(true))]))
    order = random.permutation(len(cells))
    return _sheet([cells[k] for k in order], manifest.height, manifest.width)


def _sheet(cells: list[tuple[np.ndarray, list[str]]], height: int, width: int) -> np.ndarray:
    # Narrow images are enlarged to make room for text, but not if they would become very high.
    enlarge = max(1, min(round(CELL / width), HIGHEST // height))
    shown = width * enlarge, height * enlarge
    characters = max(1, shown[0] // (FONT_SIZE // 2))
    texts = []
    for _, (title, attributes) in cells:
        lines = [*textwrap.wrap(title, characters)[:2], *textwrap.wrap(attributes, characters)]
        texts.append(lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], "..."])
    step_x = shown[0] + MARGIN
    step_y = shown[1] + MARGIN + LINE * max((len(lines) for lines in texts), default=0)
    # Make the sheet about as wide as it is high.
    columns = max(1, min(len(cells), round(math.sqrt(len(cells) * step_y / step_x))))
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * step_x + MARGIN, rows * step_y + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, ((pixels, _), lines) in enumerate(zip(cells, texts, strict=True)):
        x, y = MARGIN + number % columns * step_x, MARGIN + number // columns * step_y
        image = Image.fromarray(pixels).resize(shown, Image.Resampling.NEAREST)
        sheet.paste(image, (x, y))
        draw.multiline_text(
            (x, y + shown[1] + 1), "\n".join(lines), "black", font, spacing=LINE - FONT_SIZE
        )
    return np.asarray(sheet)
