"""Draw with a trained model: the work of `jobs/sample.py`."""

import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

import raygen
from raygen.cli import command_line
from raygen.config.run import ImageFormat, size_name
from raygen.core.destination import file_to_write, folder_to_write, free_bytes
from raygen.core.errors import UserError
from raygen.core.printable import printable
from raygen.core.progress import ProgressLine, describe
from raygen.core.storage import Folder
from raygen.data.images import MAX_FILE_BYTES, BadImage, fit_image, open_image, upright_size
from raygen.data.pixels import as_images
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import HeldOut
from raygen.data.splits import VALIDATION
from raygen.evaluation.grids import MAX_PNG_SIDE, grid_size, to_uint8
from raygen.evaluation.written import write_arrays, write_files, write_grid
from raygen.inference.dataset import dataset_of
from raygen.inference.model import TrainedModel
from raygen.inference.options import SampleOptions

SAMPLES, ROWS = 64, 8
"""Default numbers of samples, and of rows of images with an attribute."""
INPUTS = 32
"""Batch size for reading and reconstructing images."""
SQUEEZED = 10
"""Compression ratio of image files that is assumed when checking for free space."""

ImagesAndCodes = tuple[Tensor, Tensor]
"""Images, (N, 3, H, W) in [-1, 1], and the latent codes to keep of them; (0,) if there are none."""


@dataclass(frozen=True)
class Drawing:
    """Images to draw, a few at a time.

    Attributes:
        name: base name of the files.
        batches: the images, in order.
        count: number of images in all batches together.
        columns: number of columns of a grid; 0: as square as possible.
        codes: number of latent codes that are kept.
    """

    name: str
    batches: Iterator[ImagesAndCodes]
    count: int
    columns: int = 0
    codes: int = 0


def sample(options: SampleOptions) -> None:
    """Draw images, and write them.

    Raises: UserError, RunError.
    """
    strengths = parse_strength(options.strength)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = raygen.load(options.run, options.checkpoint, device)
    target = open_target(options)
    if options.reconstruct:
        drawing = reconstructions(trained, options)
    elif options.attribute:
        drawing = variations(trained, options, strengths)
    else:
        count = options.count or SAMPLES
        drawing = Drawing("samples", samples(trained, count, options.seed), count, codes=count)
    check_room(target, options, drawing, trained)
    write(target.patient(options.patience), options.format, drawing, trained)
    about = f"{trained.config.preset}, step {trained.step:,}"
    print(f"{about}: {drawing.count:,} images in {target.uri}")


def parse_strength(text: str) -> Tensor:
    """Parse `first:last:count` into that many evenly spaced strengths. Raises: UserError."""
    number = r"([+-]?(?:\d{1,9}\.?\d*|\.\d+))"
    match = re.fullmatch(rf"{number}:{number}:(\d{{1,3}})", text)
    if not match or int(match[3]) < 1:
        raise UserError(f"--strength {text}: must be first:last:count, as -2:2:5")
    return torch.linspace(float(match[1]), float(match[2]), int(match[3]))


def samples(trained: TrainedModel, count: int, seed: int) -> Iterator[ImagesAndCodes]:
    """Yield images generated from noise, and their latent codes."""
    for codes in trained.code_batches(count, seed):
        yield trained.from_noise(codes), codes


def reconstructions(trained: TrainedModel, options: SampleOptions) -> Drawing:
    """Images beside their reconstructions. All files are checked before the first is drawn.

    Raises: UserError if one cannot be read, or has another size and `fit` is off.
    """
    trained.require_encoder("--reconstruct")
    paths = options.reconstruct[: options.count or None]
    for path in paths:
        open_input(path, trained, options.fit)

    def batches() -> Iterator[ImagesAndCodes]:
        for first in range(0, len(paths), INPUTS):
            inputs = [read_image(p, trained, options.fit) for p in paths[first : first + INPUTS]]
            images = torch.cat(inputs)
            codes = trained.encode(images)
            pairs = torch.stack([images, trained.decode(codes)], dim=1).flatten(0, 1)
            yield pairs, codes

    return Drawing("reconstructions", batches(), 2 * len(paths), columns=2, codes=len(paths))


def open_input(path: str, trained: TrainedModel, fit: bool) -> Image.Image:
    """Open an image file to reconstruct, without decoding it.

    Args: fit: whether images of other sizes are allowed, because they will be cropped and resized.
    Raises: UserError if it cannot be read, or has another size and `fit` is off.
    """
    said = f"--reconstruct {path}"
    file = Folder.at(path)
    height, width = trained.image_size
    try:
        data = file.parent.read_bytes(file.name, MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise BadImage(f"too large: more than {MAX_FILE_BYTES:,} bytes")
        image = open_image(data)
        size = upright_size(image)
    except FileNotFoundError:
        raise UserError(f"{said}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{said}: is a folder; name image files, as {path}/*.jpg") from None
    except (OSError, ValueError, SyntaxError, BadImage) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{said}: cannot be read as an image ({reason})") from error
    if size != (width, height) and not fit:
        raise UserError(
            f"{said}: is {size_name(size[1], size[0])} pixels, but {trained.config.preset} needs "
            f"{size_name(height, width)}; resize it, or add --fit"
        )
    return image


def read_image(path: str, trained: TrainedModel, fit: bool) -> Tensor:
    """Read an image file as the model's input: (1, 3, H, W) in [-1, 1]. Raises: UserError."""
    image = open_input(path, trained, fit)
    wanted = trained.config.image if fit else ImageFormat(*trained.image_size)
    try:
        return as_images(fit_image(image, wanted)[None])
    except BadImage as error:
        raise UserError(f"--reconstruct {path}: cannot be read as an image ({error})") from error


def variations(trained: TrainedModel, options: SampleOptions, strengths: Tensor) -> Drawing:
    """Validation images with an attribute turned down and up, a row of strengths for each."""
    trained.require_encoder("--attribute")
    data = find_data(options, trained)
    manifest = Manifest.load(data)
    line = ProgressLine()
    try:
        vector = trained.attribute_vector(
            data,
            options.attribute,
            options.attribute_images,
            lambda done, total: line.show(f"encoding: {describe(done, total, 0)}"),
            lambda names: line.tell(_balanced(options.attribute, names)),
        )
    finally:
        line.close()
    # It was there until now.
    data, manifest = data.patient(options.patience), manifest.patient(options.patience)
    images = HeldOut.of(data, manifest, VALIDATION, options.count or ROWS)

    def batches() -> Iterator[ImagesAndCodes]:
        for row in range(images.count):
            image = as_images(images.read(row, row + 1).images)
            yield trained.vary(image, vector, strengths), torch.empty(0)

    count = images.count * len(strengths)
    return Drawing(options.attribute, batches(), count, columns=len(strengths))


def _balanced(attribute: str, names: tuple[str, ...]) -> str:
    """Describe what an attribute's images were balanced over."""
    attribute, *others = map(printable, (attribute, *names))
    if not others:
        return f"{attribute}: all images with it are compared with all without it"
    return (
        f"{attribute}: images with it are compared with images without it that agree in "
        f"{', '.join(others)}"
    )


def find_data(options: SampleOptions, trained: TrainedModel) -> Folder:
    """The dataset that the run was trained on.

    Raises: UserError if only the run's files say that it lies in an object store: whoever made the
        run would then decide where the user's credentials are sent.
    """
    again = [options.run, "--attribute", options.attribute, "--data", trained.config.data]
    command = command_line("jobs/sample.py", *again)
    return dataset_of(Folder.at(options.run), trained.config, options.data, "--attribute", command)


def open_target(options: SampleOptions) -> Folder:
    """The file to write or, for single images, the folder.

    Raises: UserError if it cannot be written.
    """
    name = options.attribute or ("reconstructions" if options.reconstruct else "samples")
    # An attribute's name may contain any characters.
    name = re.sub(r"[^\w.() +-]", "_", name)
    if options.format == "png":
        folder = folder_to_write("--out", options.out or name)
        folder.check_writable()
        return folder
    suffix = ".npz" if options.format == "npz" else ".png"
    return file_to_write("--out", options.out, name + suffix)


def check_room(
    target: Folder, options: SampleOptions, drawing: Drawing, trained: TrainedModel
) -> None:
    """Raises: UserError if the images are too many for a grid or for the free space."""
    height, width = trained.image_size
    if options.format == "grid":
        size = grid_size(drawing.count, drawing.columns, height, width)
        if max(size) > MAX_PNG_SIDE:
            raise UserError(
                f"--count {drawing.count}: a grid of {size_name(*size)} pixels is larger than "
                f"PNGs can be ({MAX_PNG_SIDE:,} a side); use --format npz or png, or less"
            )
    pixels = drawing.count * height * width * 3
    codes = 0
    if options.format == "npz":
        codes = drawing.codes * math.prod(trained.latent_shape) * 4
    needed, free = pixels // SQUEEZED + codes, free_bytes(target.parent)
    if needed > free:
        raise UserError(
            f"--count {drawing.count}: takes at least {needed / 1e9:,.1f} GB, but "
            f"{target.parent.uri} has room for {free / 1e9:,.1f} GB; draw less, or name another "
            "place with --out"
        )


def write(target: Folder, kind: str, drawing: Drawing, trained: TrainedModel) -> None:
    """Write images, and show the progress. Args: kind: the format, as in `SampleOptions`."""
    line, began, done = ProgressLine(), time.monotonic(), 0

    def told() -> Iterator[ImagesAndCodes]:
        nonlocal done
        for images, codes in drawing.batches:
            yield images, codes
            done += len(images)
            rate = done / max(time.monotonic() - began, 1e-6)
            if done < drawing.count:
                line.show(f"drawing: {describe(done, drawing.count, rate)}")

    batches = ((to_uint8(images), codes.numpy()) for images, codes in told())
    height, width = trained.image_size
    try:
        if kind == "png":
            write_files(target, drawing.name, batches, max(5, len(str(drawing.count - 1))))
        elif kind == "npz":
            codes_shape = (drawing.codes, *trained.latent_shape) if drawing.codes else (0,)
            write_arrays(target, batches, (drawing.count, height, width, 3), codes_shape)
        else:
            write_grid(target, batches, drawing.count, drawing.columns, (height, width))
    finally:
        line.close()
