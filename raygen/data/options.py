"""The options of jobs that prepare and show datasets."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

import tyro

from raygen.config.fields import (
    ConfigFile,
    Patience,
    RequiredText,
    require,
    require_at_least,
    require_seed,
)
from raygen.config.run import MOST_WORKERS, ImageFormat, require_drawn_count
from raygen.data.shares import CELEBA_TRAIN_SHARE, TEST_SHARE, VALIDATION_SHARE

USUAL = -1.0
"""The value of --test-share that stands for the usual share of the source."""
Sizes = tyro.conf.UseAppendAction[tuple[str, ...]]
Names = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True)
class PrepareOptions(Patience):
    """What a job that prepares a dataset needs to know, wherever the images come from."""

    out: RequiredText = ""
    """Folder or URI to write the dataset to. Required."""
    size: Annotated[Sizes, tyro.conf.arg(help_behavior_hint="(default: 32)")] = ("32",)
    """Size of the images in pixels: 32 for square ones, else height x width, as 218x178. Repeat
    it for several datasets, each in a folder of its size in --out; images are decoded once."""
    crop: int = -1
    """Side in pixels of the centred square that is cut out first; 0: none; -1: 150 where --size
    is square, as the presets do with CelebA's aligned photographs, else none."""
    max_rejected: str = "1%"
    """How many images may be left out because they cannot be read, as a number or a share of all;
    more fail the job. All are listed in the manifest."""
    num_workers: int = 4
    """Training workers to prepare for: there are at least four files for each."""
    test_share: float = USUAL
    """Share of the images that is held out to test on, which only evaluation reads; 0: none; -1:
    0.05. Where the images come divided: -1: their own; else, if that is none, it is taken out of
    those that validate."""
    restart: bool = False
    """Replace the dataset that the folder holds."""
    storage_timeout: str = "10m"
    """How long to try again while an object store does not answer, as 90s, 10m or 2h."""
    config: ConfigFile = ""
    verbose: bool = False
    """Show Ray's own messages."""

    @property
    def tested(self) -> float | None:
        """The share of the images to test on; None for the usual one of the source."""
        return None if self.test_share == USUAL else self.test_share

    def __post_init__(self) -> None:
        _ = self.patience
        require_at_least(self, 1, "num_workers", most=MOST_WORKERS)
        self.allowed(100)
        share = self.test_share
        require(0 <= share < 1 or share == USUAL, "--test-share", share, "be 0 or more, below 1")

    def require_untrained(self) -> None:
        """Raises: UserError unless the test images fit into the part of CelebA not trained on."""
        most = round(1 - CELEBA_TRAIN_SHARE, 6)
        wish = f"be less than {most}, as the first {CELEBA_TRAIN_SHARE:.0%} of the images train"
        require(self.test_share < most, "--test-share", self.test_share, wish)

    def allowed(self, total: int) -> int:
        """How many of `total` images may be left out. Raises: UserError."""
        share = re.fullmatch(r"(\d{1,3}(?:\.\d{1,15})?)%", self.max_rejected, re.ASCII)
        number = re.fullmatch(r"\d{1,15}", self.max_rejected, re.ASCII) or (
            share and float(share[1]) <= 100
        )
        require(bool(number), "--max-rejected", self.max_rejected, "be a number or 0% to 100%")
        return int(Fraction(share[1]) * total / 100) if share else int(self.max_rejected)

    @property
    def images_wanted(self) -> list[ImageFormat]:
        """The format of the images of each size. Raises: UserError."""
        wanted = [ImageFormat.parse(size, self.crop) for size in self.size]
        require(len(set(wanted)) == len(wanted) > 0, "--size", " ".join(self.size), "differ")
        return wanted


@dataclass(frozen=True)
class CelebAOptions(PrepareOptions):
    """CelebA as it is distributed."""

    images: RequiredText = ""
    """img_align_celeba.zip, or the folder unpacked from it, or their URI. Required."""
    attributes: RequiredText = ""
    """list_attr_celeba.csv or .txt. Required."""
    partition: str = ""
    """list_eval_partition.csv or .txt: which images train, validate and test. Default: the first
    80 % in the order of their names train, the first half of the others validate, the rest test."""
    download: str = ""
    """Folder to download CelebA to, with torchvision, in place of all three: 1.4 GB."""
    test_share: float = USUAL
    """Share of the images that is held out to test on, which only evaluation reads, out of those
    that do not train; 0: none; -1: half of them, or those that --partition names."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.partition and not self.download:
            self.require_untrained()


@dataclass(frozen=True)
class FilesOptions(PrepareOptions):
    """Images that are not CelebA's."""

    size: Annotated[Sizes, tyro.conf.arg(help_behavior_hint="(default: 64)")] = ("64",)
    crop: int = 0
    """Side in pixels of the centred square that is cut out first; 0: none; -1: 150 where --size
    is square, as for CelebA, else none."""
    images: RequiredText = ""
    """A folder, zip or tar of JPEG, PNG, WebP, BMP, GIF or TIFF files, or its URI. Required."""
    validation_share: float = VALIDATION_SHARE
    """Share of the images that is held out to validate on, chosen by their names' hashes, where
    nothing else names a split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.validation_share
        require(0 < share < 1, "--validation-share", share, "be between 0 and 1")
        tests = TEST_SHARE if self.tested is None else self.tested
        wish = f"leave images to train on beside a --test-share of {tests:g}"
        require(share + tests < 1, "--validation-share", share, wish)


@dataclass(frozen=True)
class ImageFilesOptions(FilesOptions):
    """Files of images, whose folders may say something of them."""

    ignore_split_folders: bool = False
    """Take folders such as train and val, which otherwise say which split their images are of,
    for folders like others."""


@dataclass(frozen=True)
class AnimeOptions(ImageFilesOptions):
    """Anime faces."""


@dataclass(frozen=True)
class FolderOptions(ImageFilesOptions):
    """Any other images."""

    labels: bool = False
    """Make an attribute of each subfolder, true for the images in it."""
    keep_attributes: Names = ()
    """With --labels: the subfolder to make an attribute of; repeat it for several. Default: all."""


@dataclass(frozen=True)
class HuggingFaceOptions(FilesOptions):
    """A dataset of Hugging Face's that is on a disk already."""

    images: RequiredText = ""
    """The folder that save_to_disk wrote, or its URI. Required. Where it has splits, they are
    kept, and --validation-share is not used; a test split is taken out of the one for validation
    if there is none and --test-share asks for it."""
    keep_attributes: Names = ()
    """Column of truth values, or class, to keep as an attribute; repeat it for several. Default:
    all, except for columns of classes with which there would be more than 256."""


@dataclass(frozen=True)
class DrawnOptions(PrepareOptions):
    """Faces that raygen draws itself."""

    count: Annotated[int, tyro.conf.arg(aliases=["-n", "--drawn-count"])] = 20_000
    """How many faces to draw, for training, validation and test together."""
    seed: int = 0
    """Decides the faces."""
    test_share: float = USUAL
    """Share of the faces that is held out to test on, which only evaluation reads, out of the last
    fifth, which does not train; 0: none; -1: half of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_drawn_count(self.count, "--count")
        self.require_untrained()
        require_seed(self)


@dataclass(frozen=True)
class ShowOptions:
    """A prepared dataset: its manifest as a table, and a picture of some of its images."""

    data: Annotated[tyro.conf.Positional[RequiredText], tyro.conf.arg(metavar="DIR")] = ""
    """Folder or URI of the dataset. Required."""
    verify: bool = False
    """Read every file and compare its checksum with the manifest's."""
    count: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 24
    """Random images in the picture; 0: no picture."""
    seed: int = 0
    """Decides which."""
    out: str = ""
    """File or URI of the picture. Default: the dataset's name with -images.png, in the current
    folder."""
    config: ConfigFile = ""

    def __post_init__(self) -> None:
        require_seed(self)
        require_at_least(self, 0, "count")


SUBCOMMANDS: dict[str, type[PrepareOptions | ShowOptions]] = {
    "celeba": CelebAOptions,
    "anime": AnimeOptions,
    "folder": FolderOptions,
    "huggingface": HuggingFaceOptions,
    "drawn": DrawnOptions,
    "show": ShowOptions,
}
"""Options of the subcommands of jobs/prepare.py, by name."""
