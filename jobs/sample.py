"""Draw with a trained model: samples, reconstructions, attributes turned down and up.

python jobs/sample.py runs/vae-celeba -n 64 --seed 7 --out grid.png
python jobs/sample.py runs/vae-celeba --reconstruct photo.jpg --fit
python jobs/sample.py runs/vae-celeba --attribute Smiling --strength -2:2:5
"""

import io
import re
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import raygen
from raygen.cli import command_line, parse_options, run_job
from raygen.config import DRAWN, PRESETS, ImageFormat
from raygen.data.images import BadImage, fit_image, open_image
from raygen.data.prefetch import as_images
from raygen.data.reader import HeldOut
from raygen.data.shards import Manifest
from raygen.data.sources import VALIDATION, drawn_folder
from raygen.errors import UserError
from raygen.evaluation.pictures import encode_png, grid, to_uint8
from raygen.job_options import SampleOptions
from raygen.progress import ProgressLine, describe
from raygen.storage import Folder
from raygen.trained import TrainedModel

SAMPLES, ROWS = 64, 8
"""How many images without -n: samples, and rows of a strip."""


def main(argv: Sequence[str]) -> None:
    options = parse_options(SampleOptions, argv, "Draw with a trained model.")
    if options.reconstruct and options.attribute:
        raise UserError("--reconstruct and --attribute: choose one of them")
    strengths = parse_strength(options.strength)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = raygen.load(options.run, options.checkpoint, device)
    target, name = open_target(options)
    columns, codes = 0, torch.empty(0)
    if options.reconstruct:
        columns = 2
        trained.require_encoder("--reconstruct")
        images = torch.cat([read_image(path, trained, options.fit) for path in options.reconstruct])
        images = images[: options.count or None]
        codes = trained.encode(images)
        pictures = torch.stack([images, trained.decode(codes)], dim=1).flatten(0, 1)
    elif options.attribute:
        columns = len(strengths)
        pictures = vary(trained, options, strengths)
    else:
        codes = trained.codes(options.count or SAMPLES, options.seed)
        pictures = trained.decode(codes)
    write(target, options.format, name, pictures, columns, codes)
    about = f"{trained.config.preset}, step {trained.step:,}"
    print(f"{about}: {len(pictures)} images in {target.uri}")


def parse_strength(text: str) -> Tensor:
    """The strengths that `first:last:count` names. Raises: UserError."""
    number = r"([+-]?(?:\d+\.?\d*|\.\d+))"
    match = re.fullmatch(rf"{number}:{number}:(\d{{1,3}})", text)
    if not match or int(match[3]) < 1:
        raise UserError(f"--strength {text}: must be first:last:count, as -2:2:5")
    return torch.linspace(float(match[1]), float(match[2]), int(match[3]))


def read_image(path: str, trained: TrainedModel, fit: bool) -> Tensor:
    """An image file as the model's input: (1, 3, H, W) in [-1, 1].

    Raises: UserError if it cannot be read, or has another size and is not to be fitted.
    """
    file = Folder.at(path)
    height, width = trained.image_size
    try:
        image = open_image(file.parent.read_bytes(file.name))
        if image.size != (width, height) and not fit:
            raise UserError(
                f"--reconstruct {path}: is {image.height}x{image.width} pixels, but "
                f"{trained.config.preset} needs {height}x{width}; resize it, or add --fit"
            )
        preset = PRESETS[trained.config.preset].image
        pixels = fit_image(image, preset if fit else ImageFormat(height, width))
    except FileNotFoundError:
        raise UserError(f"--reconstruct {path}: no such file") from None
    except (OSError, BadImage) as error:
        raise UserError(f"--reconstruct {path}: cannot be read as an image ({error})") from error
    return as_images(pixels[None])


def vary(trained: TrainedModel, options: SampleOptions, strengths: Tensor) -> Tensor:
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
        )
    finally:
        line.close()
    images = HeldOut.of(data, manifest, VALIDATION, options.count or ROWS)
    return trained.vary(as_images(images.images(0, images.count)), vector, strengths)


def find_data(options: SampleOptions, trained: TrainedModel) -> Folder:
    """The dataset that the run was trained on.

    Raises: UserError if the run alone says that it lies in an object store. Whoever made the run
        would decide who is asked for it, with the credentials of whoever uses it.
    """
    if options.data:
        return Folder.at(options.data)
    data = trained.config.data
    if "://" in data:
        again = [options.run, "--attribute", options.attribute, "--data", data]
        raise UserError(
            f"--attribute: the run was trained on {data}, which your credentials are not sent to "
            "only because the run says so; if you trust it, name it: "
            f"{command_line('jobs/sample.py', *again)}"
        )
    if data != DRAWN:
        return Folder.at(data)
    image = PRESETS[trained.config.preset].image.of_faces
    return drawn_folder(Folder.at(options.run).parent, image, trained.config.drawn_count)


def open_target(options: SampleOptions) -> tuple[Folder, str]:
    """What to write: the file or, for single images, the folder; and what the pictures are called.

    Raises: UserError if it cannot be written.
    """
    name = options.attribute or ("reconstructions" if options.reconstruct else "samples")
    suffix = {"grid": ".png", "npz": ".npz", "png": ""}[options.format]
    target = Folder.at(options.out or name + suffix)
    (target if options.format == "png" else target.parent).check_writable()
    return target, name


def write(
    target: Folder, kind: str, name: str, pictures: Tensor, columns: int, codes: Tensor
) -> None:
    """Write pictures in a format."""
    if kind == "png":
        for number, pixels in enumerate(to_uint8(pictures)):
            target.write_bytes(f"{name}-{number:05d}.png", encode_png(pixels))
        return
    if kind == "grid":
        data = encode_png(grid(pictures, columns))
    else:
        file = io.BytesIO()
        np.savez_compressed(file, images=to_uint8(pictures), codes=codes.numpy())
        data = file.getvalue()
    target.parent.write_bytes(target.name, data)


if __name__ == "__main__":
    sys.exit(run_job(main))
