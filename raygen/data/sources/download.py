"""Downloads CelebA from its authors' host, with torchvision."""

import importlib.util
import os

from raygen.core.errors import RunError, UserError


def download_celeba(folder: str) -> tuple[str, str, str]:
    """Download CelebA, unless the folder already holds it.

    Returns: paths of the images, the attributes and the partition, for `image_files.celeba`.
    Raises: UserError if the package that torchvision needs is missing or the folder cannot be
        written; RunError if the download fails, as it does when the host's daily limit is reached.
    """
    if "://" in folder:
        raise UserError(f"--download {folder}: must be a local folder; prepare from there")
    if importlib.util.find_spec("gdown") is None:
        raise UserError(
            "--download: needs the package gdown; run it with `uv run --extra download`"
        )
    from torchvision.datasets import CelebA

    root = os.path.expanduser(folder)
    print(f"downloading CelebA to {folder} (1.4 GB)")
    try:
        os.makedirs(root, exist_ok=True)
        CelebA(root, split="all", download=True)
    except PermissionError as error:
        raise UserError(f"--download {folder}: cannot write there ({error.strerror})") from error
    # gdown, requests and torchvision each raise errors of their own.
    except Exception as error:
        raise RunError(
            f"--download: failed ({' '.join(str(error).split())}); its host limits downloads by "
            "day: try later, or download the files in a browser and name them with --images and "
            "--attributes"
        ) from error
    place = os.path.join(root, "celeba")
    names = ("img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt")
    images, attributes, partition = (os.path.join(place, name) for name in names)
    return images, attributes, partition
