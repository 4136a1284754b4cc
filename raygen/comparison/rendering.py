"""What all pages share: their templates, numbers, and pictures inside the file."""

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from raygen.core.printable import printable


def render(template: str, **values: Any) -> str:
    """A page as HTML. All texts are escaped, and characters that cannot be shown made visible.

    Args: template: the name of a file beside this one, such as page.html; values: what it shows.
    """
    environment = Environment(
        loader=PackageLoader("raygen.comparison", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_finalized,
    )
    return environment.get_template(template).render(values)


def _finalized(value: Any) -> Any:
    # Names of files need not be UTF-8, which the page is written in.
    return printable(value) if type(value) is str else value


def number(value: float) -> str:
    """Format a figure to four digits; empty for what is not finite."""
    return f"{value:.4g}" if math.isfinite(value) else ""


@dataclass(frozen=True)
class Encoded:
    """A picture as a data URI; its width and height in pixels."""

    uri: str
    width: int
    height: int


def as_png(image: Image.Image) -> Encoded:
    """An exact picture for a page."""
    return _encoded(image, "png", optimize=True)


def as_webp(image: Image.Image, quality: int) -> Encoded:
    """A picture for a page that takes little space. Args: quality: up to 100."""
    return _encoded(image, "webp", quality=quality)


def _encoded(image: Image.Image, kind: str, **options: Any) -> Encoded:
    file = io.BytesIO()
    image.save(file, kind, **options)
    text = base64.b64encode(file.getvalue()).decode()
    return Encoded(f"data:image/{kind};base64,{text}", image.width, image.height)
