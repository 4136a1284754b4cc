"""A trained model in use: sampling, reconstructing, encoding, decoding. Needs torch, not Ray."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from raygen.config.run import PRESETS, RunConfig
from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.data.pixels import as_images
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import ShardReader
from raygen.data.splits import TRAIN
from raygen.inference.attributes import compare
from raygen.models import build_model, family_of
from raygen.models.base import Model
from raygen.models.layers import USER_NOISE, latent_batches, latents
from raygen.training import checkpoint, checkpoint_index
from raygen.training.finite import NotFinite, check_weights
from raygen.training.run import CONFIG, RunFolder

AT_ONCE = 64
"""Batch size of inference; a sixteenth of it is used for large images."""
LARGE_PIXELS = 128 * 128
"""Images of more pixels count as large: their activations take many times their own memory."""
_ADVICE = "use an earlier checkpoint (--checkpoint), or train again with lower learning rates"


class TrainedModel:
    """The networks of one checkpoint, with which nothing is trained any more.

    Images are (N, 3, H, W) float32 in [-1, 1], codes (N, *latent_shape) float32; results are on the
    CPU. Networks are used with the moving average of their weights, if there is one, and with batch
    norm's running statistics, as for the pictures drawn in training.

    Attributes:
        model: the family's model, with its networks.
        step: training steps that the checkpoint had taken.
    """

    def __init__(self, model: Model, step: int) -> None:
        self.model = model
        self.step = step

    @property
    def config(self) -> RunConfig:
        return self.model.config

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of an image's code, or of the noise that it is generated from."""
        return self.model.latent_shape

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        image = self.config.image
        return image.height, image.width

    @property
    def at_once(self) -> int:
        """Batch size of inference for this model's images."""
        height, width = self.image_size
        return AT_ONCE if height * width <= LARGE_PIXELS else AT_ONCE // 16

    def codes(self, count: int, seed: int = 0) -> Tensor:
        """Draw the codes that `sample` decodes: N(0, I), a function of the seed alone."""
        return latents(count, self.latent_shape, (USER_NOISE, seed))

    def code_batches(self, count: int, seed: int = 0) -> Iterator[Tensor]:
        """Yield the same codes as `codes`, in batches of `at_once`.

        Yields: (N, *latent_shape).
        """
        at_once = -(-self.at_once // 16) * 16
        return latent_batches(count, self.latent_shape, (USER_NOISE, seed), at_once)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Generate images; a larger count with the same seed begins with the same images."""
        return self.from_noise(self.codes(count, seed))

    def from_noise(self, noise: Tensor) -> Tensor:
        """Generate images from noise (N, *latent_shape).

        Raises: UserError if they are not finite, but the noise is.
        """
        return self._images(self.model.sample, noise)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes, such as those of `encode`, to images. Raises: as `from_noise`."""
        return self._images(self.model.decode, codes)

    @torch.no_grad()
    def _images(self, make: Callable[[Tensor], Tensor], codes: Tensor) -> Tensor:
        parts = [make(part).float().cpu() for part in codes.split(self.at_once)]
        images = torch.cat(parts) if parts else torch.empty(0, 3, *self.image_size)
        self._check_finite(codes, images, "images")
        return images

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode images to the means of their codes.

        Raises: UserError for models without an encoder, images of another size, and codes that are
            not finite though the images are.
        """
        self.require_encoder("encode")
        if images.ndim != 4 or images.shape[1:] != (3, *self.image_size):
            height, width = self.image_size
            raise UserError(
                f"images of shape {tuple(images.shape)}: {self.config.preset} encodes "
                f"(N, 3, {height}, {width})"
            )
        parts = [self.model.encode(part)[0].float().cpu() for part in images.split(self.at_once)]
        codes = torch.cat(parts) if parts else torch.empty(0, *self.latent_shape)
        self._check_finite(images, codes, "codes")
        return codes

    def _check_finite(self, inputs: Tensor, outputs: Tensor, what: str) -> None:
        if not outputs.isfinite().all() and inputs.isfinite().all():
            raise UserError(
                f"{self.config.preset}, step {self.step:,}: makes {what} that are not finite; its "
                f"weights have grown too large: {_ADVICE}"
            )

    def reconstruct(self, images: Tensor) -> Tensor:
        """Encode images to the means of their codes and decode these. Raises: as `encode`."""
        return self.decode(self.encode(images))

    def require_encoder(self, wish: str) -> None:
        """Raises: UserError if the model has no encoder. Args: wish: what needs one."""
        if not self.model.can_encode:
            able = [n for n, run in PRESETS.items() if family_of(run.family).can_encode]
            raise UserError(
                f"{wish}: needs an encoder, which {self.config.preset} lacks; use a run of "
                f"{' or '.join(able)}"
            )

    def attribute_vector(
        self,
        data: Folder,
        attribute: str,
        most: int = 2_000,
        progress: Callable[[int, int], None] | None = None,
        balanced: Callable[[tuple[str, ...]], None] | None = None,
    ) -> Tensor:
        """How codes with an attribute differ from codes without: (*latent_shape).

        The mean of the codes of training images that have it minus that of those that lack it,
        within strata in which the attributes that correlate with it are the same, so that it does
        not hold what only goes along with the attribute.

        Args:
            data: a prepared dataset.
            most: upper limit of images to use, the first ones, half of them with the attribute.
            progress: called with images done and images in total.
            balanced: called with the names of the attributes that are the same within strata, which
                are none if too few images would be left.
        Raises: UserError if the dataset lacks the attribute, or if all images or none have it, or
            if the images are of another size, or the model has no encoder.
        """
        self.require_encoder("--attribute")
        manifest = Manifest.load(data)
        self.config.check_images(manifest.height, manifest.width)
        reader = ShardReader(data, manifest, TRAIN)
        wanted = reader.attribute(attribute)
        for value, which in ((1, "no image has"), (-1, "no image lacks")):
            if not (wanted == value).any():
                raise UserError(f"--attribute {attribute}: {which} it in {data.uri}; name another")
        comparison = compare(reader.attributes(), attribute, most)
        if balanced:
            balanced(comparison.balanced)
        groups = [rows for s in comparison.strata for rows in (s.present, s.absent)]
        total, done = sum(map(len, groups)), 0
        means = []
        for rows in groups:
            # Double precision keeps the sum of many images as exact as that of few.
            codes = torch.zeros(self.latent_shape, dtype=torch.float64)
            for first in range(0, len(rows), AT_ONCE):
                pixels = reader.images(rows[first : first + AT_ONCE])
                codes += self.encode(as_images(pixels)).double().sum(dim=0)
                done += len(pixels)
                if progress:
                    progress(done, total)
            means.append(codes / len(rows))
        vector = torch.zeros(self.latent_shape, dtype=torch.float64)
        for stratum, present, absent in zip(
            comparison.strata, means[::2], means[1::2], strict=True
        ):
            vector += stratum.weight * (present - absent)
        return vector.float()

    def vary(self, images: Tensor, vector: Tensor, strengths: Tensor) -> Tensor:
        """Reconstructions with multiples of a vector added to their codes.

        Args: images: (N, 3, H, W); vector: (*latent_shape); strengths: (S,).
        Returns: (N * S, 3, H, W), all strengths of the first image first.
        """
        codes = self.encode(images)
        moved = codes[:, None] + strengths.view(1, -1, *[1] * vector.ndim) * vector
        return self.decode(moved.flatten(0, 1))


def open_run(run: str | Folder) -> tuple[RunFolder, RunConfig]:
    """A run's folder and its options. Raises: UserError if there is no such run."""
    if not run:
        raise UserError("RUN: is required; name the folder or URI of a run, such as runs/NAME")
    folder = RunFolder(run if isinstance(run, Folder) else Folder.at(run))
    if not folder.folder.exists(CONFIG):
        raise UserError(
            f"{folder.folder.uri}: holds no {CONFIG}; name the folder of a run, such as runs/NAME"
        )
    if folder.begins_anew(restart=False):
        raise UserError(f"{folder.folder.uri}: is being deleted by --restart; train it first")
    config = RunConfig.from_json(folder.saved_config(), folder.folder.join(CONFIG).uri)
    return folder, config


def load(run: str | Folder, which: str | int = "last", device: str = "cpu") -> TrainedModel:
    """Load a checkpoint of a run; see `raygen.load`."""
    folder, config = open_run(run)
    step = find_checkpoint(folder, which)
    saved = checkpoint_index.at_step(folder.checkpoints, step)
    # Options may ask for networks of any size, so they get no memory before the checkpoint's files
    # are known to match.
    with torch.device("meta"):
        model = build_model(config)
    checkpoint.load_networks(saved, model)
    try:
        check_weights({name: model.ema(name) for name in model.interfaces}, step)
    except NotFinite as error:
        raise UserError(f"{saved.uri}: {error}; {_ADVICE}") from error
    model.to(torch.device(device))
    return TrainedModel(model, step)


def best_or_last(run: RunFolder) -> int:
    """The step of the best checkpoint, or of the last one where none was measured.

    Raises: UserError if there is none.
    """
    try:
        return find_checkpoint(run, "best")
    except UserError:
        return find_checkpoint(run, "last")


def find_checkpoint(run: RunFolder, which: str | int) -> int:
    """The step of the last or best checkpoint of a run, or of the one of a given step.

    Raises: UserError if there is none.
    """
    saved = [checkpoint_index.step_of(name) for name in checkpoint_index.complete(run.checkpoints)]
    if not saved:
        raise UserError(f"{run.folder.uri}: has no checkpoint yet; train it for longer")
    if which == "last":
        return saved[-1]
    if which == "best":
        best = checkpoint_index.best_step(run.checkpoints)
        if best is None:
            raise UserError(
                f"--checkpoint best: {run.folder.uri} has not been measured on validation images "
                "yet; use last"
            )
        return best
    if str(which).isdecimal() and int(which) in saved:
        return int(which)
    have = ", ".join(map(str, saved))
    raise UserError(
        f"--checkpoint {which}: must be last, best, or a step whose checkpoint is kept: {have}"
    )
