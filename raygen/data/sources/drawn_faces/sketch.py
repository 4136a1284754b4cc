"""The canvas that a face is drawn on: curves, places on a turned head, and brushes.

Shapes are written in face coordinates: pixels of the finished picture, x to the right and y
downwards, from the point between the eyes. `Sketch` turns the head, places it like CelebA's
aligned pictures do, and fills polygons on an enlarged canvas, which is reduced at the end.
"""

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from raygen.data.sources.drawn_faces.parameters import Colour, Face, mix, shade

Points = NDArray[np.float64]
"""(N, 2) float64: x, y."""
WIDTH, HEIGHT = 178, 218
EYE_LEVEL = 112
"""The row that the eyes lie on, as in CelebA."""
ENLARGEMENT = 3


@functools.lru_cache
def smoothing(count: int, closed: bool) -> NDArray[np.float64]:
    """(samples, count): times control points, a Catmull-Rom curve through them."""
    steps = 6
    segments = count if closed else count - 1
    basis = 0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]])
    matrix = np.zeros((segments * steps + 1, count))
    for row in range(len(matrix)):
        segment, position = divmod(row, steps)
        if segment == segments:
            segment, position = segments - 1, steps
        t = position / steps
        for corner, weight in enumerate(np.array([1, t, t**2, t**3]) @ basis, start=segment - 1):
            matrix[row, corner % count if closed else min(max(corner, 0), count - 1)] += weight
    return matrix


def curve(*corners: tuple[float, float], closed: bool = False) -> Points:
    return smoothing(len(corners), closed) @ np.array(corners, dtype=np.float64)


def oval(x: float, y: float, width: float, height: float, corners: float = 1.0) -> Points:
    """An ellipse of these half axes; `corners` below 1 squares it."""
    cosine, sine = circle()
    if corners != 1.0:
        cosine = np.sign(cosine) * np.abs(cosine) ** corners
        sine = np.sign(sine) * np.abs(sine) ** corners
    return np.column_stack((x + width * cosine, y + height * sine))


@functools.lru_cache
def circle() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    angle = np.linspace(0, 2 * np.pi, 33)
    return np.cos(angle), np.sin(angle)


@functools.lru_cache
def _soft_disc() -> Image.Image:
    """64 x 64 "L": white in the middle, falling smoothly to black at the rim."""
    axis = (np.arange(64) - 31.5) / 32
    distance = np.minimum(np.hypot(axis[:, None], axis[None, :]), 1)
    return Image.fromarray(np.round(255 * (1 - distance**2) ** 2).astype(np.uint8))


class Sketch:
    """A canvas, and the places of one face's points on it."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.image = _draw_backdrop(face)
        self._draw = ImageDraw.Draw(self.image)
        self._sine = float(np.sin(face.turn))
        # CelebA aligns the eyes: when a head turns, its outline moves the other way.
        self._middle = -0.6 * face.half_width * self._sine
        cosine, sine = float(np.cos(face.tilt)), float(np.sin(face.tilt))
        size = ENLARGEMENT * face.scale
        self._turned = size * np.array([[cosine, sine], [-sine, cosine]])
        self._upright = size * np.eye(2)
        self._origin = ENLARGEMENT * np.array(
            [WIDTH / 2 + face.shift[0], EYE_LEVEL + face.shift[1]]
        )
        self.unit = size
        self.head = self.outline(_head(face))
        self.head_mask = Image.new("L", self.image.size)
        ImageDraw.Draw(self.head_mask).polygon(self.head.ravel().tolist(), fill=255)

    def surface(self, points: Points, lift: float = 0.0) -> Points:
        """Points on the front of the head, `lift` above it, on the canvas."""
        half = self.face.half_width
        angle = np.arcsin(np.clip(points[:, 0] / half, -1, 1)) + self.face.turn
        shift = half * np.sin(np.clip(angle, -np.pi / 2, np.pi / 2)) - np.clip(
            points[:, 0], -half, half
        )
        shift *= 1 - 0.25 * np.clip((points[:, 1] - 35) / 30, 0, 1)
        return self._place(points, shift + lift * self._sine)

    def outline(self, points: Points) -> Points:
        """Points on the edge of the head as seen, where only the jaw moves, on the canvas."""
        drop = np.clip(points[:, 1] / self.face.chin, 0, 1.2) ** 1.3
        return self._place(points, 0.7 * self.face.half_width * self._sine * drop)

    def behind(self, points: Points) -> Points:
        """Points round the back of the head, which does not move in a turn, on the canvas."""
        return self._place(points, 0.0)

    def body(self, points: Points) -> Points:
        """Points of the body, which neither turns nor tilts, on the canvas."""
        placed: Points = points @ self._upright + self._origin + (self.unit * self._middle, 0)
        return placed

    def _place(self, points: Points, shift: float | NDArray[np.float64]) -> Points:
        moved = points.copy()
        moved[:, 0] += shift + self._middle
        placed: Points = moved @ self._turned + self._origin
        return placed

    def fill(self, points: Points, colour: Colour) -> None:
        self._draw.polygon(points.ravel().tolist(), fill=colour)

    def line(self, points: Points, colour: Colour, width: float) -> None:
        """A line of constant width, in pixels of the finished picture."""
        self._draw.line(
            points.ravel().tolist(),
            fill=colour,
            width=round(width * self.unit),
            joint="curve",
        )

    def stroke(self, points: Points, colour: Colour, width: float) -> None:
        """A line that narrows towards its ends, as a pen or a brush leaves it."""
        along = np.empty_like(points)
        along[1:-1] = points[2:] - points[:-2]
        along[0], along[-1] = points[1] - points[0], points[-1] - points[-2]
        across = along[:, ::-1] * (-1, 1) / (np.hypot(along[:, :1], along[:, 1:]) + 1e-9)
        across *= 0.5 * width * self.unit * np.sin(np.linspace(0.25, 2.9, len(points)))[:, None]
        self.fill(np.concatenate((points + across, (points - across)[::-1])), colour)

    def ribbon(self, outer: Points, inner: Points, colour: Colour, strands: int = 6) -> None:
        """Hair between two edges of equally many points, combed along them."""
        self.fill(np.concatenate((outer, inner[::-1])), colour)
        light, dark = mix(colour, (255, 236, 206), 0.16), shade(colour, 0.3)
        for strand in range(strands):
            share = (strand + 0.7) / (strands + 0.4)
            path = outer + (inner - outer) * share
            self.stroke(path, light if strand % 2 else dark, 1.6 if strand % 2 else 1.1)

    def glow(
        self,
        middle: Points,
        radius: float,
        colour: Colour,
        strength: float,
        tall: float = 1.0,
    ) -> None:
        """A soft spot, on the head only. Args: tall: its height as a part of its width."""
        width, height = round(radius * self.unit), round(radius * tall * self.unit)
        left, top = round(middle[0, 0]) - width, round(middle[0, 1]) - height
        box = (left, top, left + 2 * width, top + 2 * height)
        spot = _soft_disc().resize((2 * width, 2 * height), Image.Resampling.BILINEAR)
        spot = spot.point([round(value * strength) for value in range(256)])
        spot = ImageChops.multiply(spot, self.head_mask.crop(box))
        self.image.paste(colour, box, spot)


def _head(face: Face) -> Points:
    cosine, sine = circle()
    below = sine > 0
    power = np.where(below, face.jaw, 0.9)
    x = face.half_width * np.sign(cosine) * np.abs(cosine) ** power
    return np.column_stack((x, np.where(below, face.chin, 62) * sine))


def _draw_backdrop(face: Face) -> Image.Image:
    # Smooth, so a few pixels carry it; enlarging interpolates the rest.
    rows, columns = np.mgrid[0:1:22j, 0:1:18j]
    base, first, second = (np.array(colour, dtype=np.float64) for colour in face.backdrop)
    shares = [
        np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / size**2)[..., None]
        for x, y, size in face.backdrop_spots
    ]
    pixels = base + (first - base) * shares[0]
    pixels = pixels + (second - pixels) * shares[1]
    pixels *= 1.06 - 0.22 * rows[..., None]
    small = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    size = (WIDTH * ENLARGEMENT, HEIGHT * ENLARGEMENT)
    return small.resize(size, Image.Resampling.BILINEAR)
