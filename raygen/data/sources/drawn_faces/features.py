"""The parts of a face, each drawn onto a sketch: hair, ears, eyes, nose, mouth, hats and more."""

import numpy as np
from numpy.typing import NDArray

from raygen.data.sources.drawn_faces.parameters import Colour, Face, mix, shade
from raygen.data.sources.drawn_faces.sketch import Points, Sketch, circle, curve, oval, smoothing

WHITE, BLACK = (255, 255, 255), (18, 14, 16)
MOUTH = 39.0


def draw_features(sketch: Sketch) -> None:
    """Draw everything in front of the backdrop, from the back to the front."""
    _draw_hair_behind(sketch)
    _draw_neck_and_clothes(sketch)
    _draw_ears(sketch)
    _draw_head(sketch)
    for side in (-1, 1):
        _draw_eye(sketch, side)
    _draw_nose(sketch)
    _draw_beard(sketch)
    _draw_mouth(sketch)
    _draw_mustache(sketch)
    for side in (-1, 1):
        _draw_brow(sketch, side)
    _draw_glasses(sketch)
    _draw_hair_in_front(sketch)
    _draw_earrings(sketch)
    _draw_hat(sketch)


def _fall(face: Face, side: int, inset: float, top: float, flare: float) -> Points:
    """One edge of falling hair, from `top` to the ends. Args: inset: from the outermost edge."""
    t = np.linspace(0, 1, 19)
    y = top + (face.ends - top) * t
    x = face.half_width + face.volume - inset + flare * np.sin(2.2 * t)
    x += face.wave * np.sin(y / 7.5 + face.phase)
    # The ends curl in.
    x -= 10 * np.clip((t - 0.75) / 0.25, 0, 1) ** 2
    return np.column_stack((side * x, y))


def _lips(face: Face) -> tuple[Points, Points, Points, Points]:
    """The mouth's edges: upper lip's top and bottom, lower lip's top and bottom."""
    t = np.linspace(-1, 1, 25)
    bow = (1 - t**2) ** 0.75
    middle = MOUTH + face.smile * (0.35 - t**2)
    inner_top, inner_bottom = (
        middle - 0.3 * face.gap * bow,
        middle + 0.7 * face.gap * bow,
    )
    # The dip in the middle of the upper lip.
    dip = 0.9 * np.exp(-((t / 0.16) ** 2))
    top, bottom = inner_top - face.lip * bow + dip, inner_bottom + 1.35 * face.lip * bow
    first, second, third, fourth = (
        np.column_stack((face.mouth_width * t, y)) for y in (top, inner_top, inner_bottom, bottom)
    )
    return first, second, third, fourth


def _draw_hair_behind(sketch: Sketch) -> None:
    face = sketch.face
    colour = shade(face.hair_colour, 0.3)
    reach = face.half_width + face.volume
    if face.hair == "afro":
        cosine, sine = circle()
        bumps = 1 + 0.035 * np.sin(np.arange(33) * np.pi / 2 * 1.5)
        shape = np.column_stack((cosine * (reach + 2), -6 + sine * (56 + face.volume)))
        sketch.fill(sketch.behind(shape * bumps[:, None]), face.hair_colour)
    elif face.hair in ("bob", "long", "tucked"):
        for side in (-1, 1):
            outer = sketch.behind(_fall(face, side, 1.5, -20, 7))
            inner = sketch.behind(np.column_stack((np.zeros(19), np.linspace(-20, face.ends, 19))))
            sketch.ribbon(outer, inner, colour)
    elif face.hair == "bun":
        sketch.fill(sketch.behind(oval(face.parting * 0.4, -74, 17, 15)), face.hair_colour)
        for radius in (5.0, 10.0):
            middle = sketch.behind(oval(face.parting * 0.4, -74, radius + 2, radius))
            sketch.line(middle, colour, 1.0)
    elif face.hair == "ponytail":
        side = 1 if face.parting > 0 else -1
        drift = face.wave * np.sin(np.linspace(0, 9, 13))
        outer = curve((side * 30, -46), (side * (reach + 18), -34), (side * (reach + 14), 66))
        inner = curve((side * 20, -20), (side * (reach - 4), 0), (side * (reach + 10), 66))
        outer[:, 0] += drift
        inner[:, 0] += drift
        sketch.ribbon(sketch.behind(outer), sketch.behind(inner), face.hair_colour, strands=4)


def _draw_neck_and_clothes(sketch: Sketch) -> None:
    face = sketch.face
    neck = 29.0 if face.male else 23.0
    width = 84.0 if face.male else 72.0
    skin, shadow = shade(face.skin, 0.08), shade(face.skin, 0.26)
    side = [
        (neck, 30.0),
        (neck, 62.0),
        (neck + 3, 74.0),
        (neck + 16, 88.0),
        (width, 116.0),
    ]
    right = smoothing(len(side), False) @ np.array(side)
    chest = np.concatenate((right * (-1, 1), right[::-1]))
    sketch.fill(sketch.body(chest), skin)
    across = np.linspace(-1, 1, 15)
    sink = face.chin + 13 - 9 * across**2
    under = np.column_stack((across * neck, sink))
    corners = np.array([[neck, 30.0], [-neck, 30.0]])
    sketch.fill(sketch.body(np.concatenate((under, corners))), shadow)

    depth = {"round": 90.0, "v": 106.0, "collar": 96.0}[face.neckline]
    collar = np.column_stack((across * (neck + 12), 84 + (depth - 84) * (1 - across**2)))
    if face.neckline != "round":
        collar[:, 1] = 82 + (depth - 82) * (1 - np.abs(across))
    shoulder = curve((neck + 12, 82), (width - 8, 94), (width + 6, 120), (width + 8, 150))
    cloth = np.concatenate((collar, shoulder, shoulder[::-1] * (-1, 1)))
    sketch.fill(sketch.body(cloth), face.clothes)
    trim = mix(face.clothes, WHITE, 0.3) if sum(face.clothes) < 330 else shade(face.clothes, 0.2)
    if face.neckline == "collar":
        for side_sign in (-1, 1):
            flap = np.array([(neck - 1, 76.0), (neck + 15, 84.0), (neck + 2, 104.0), (3.0, 97.0)])
            sketch.fill(sketch.body(flap * (side_sign, 1)), trim)
    else:
        sketch.line(sketch.body(collar), trim, 2.0)


def _ear_position(face: Face, side: int, beyond: float) -> float:
    """x of a point of an ear, `beyond` the edge of a head that looks straight ahead."""
    # The ear on the side that the head turns to hides behind the cheek.
    hidden = 7 * max(side * face.turn, 0) / 0.34
    return side * (face.half_width + beyond - hidden)


def _draw_ears(sketch: Sketch) -> None:
    face = sketch.face
    for side in (-1, 1):
        x = _ear_position(face, side, 2)
        sketch.fill(sketch.behind(oval(x, 7, 7, 13)), shade(face.skin, 0.1))
        sketch.fill(sketch.behind(oval(x + side, 7, 3.5, 8)), shade(face.skin, 0.24))


def _draw_head(sketch: Sketch) -> None:
    face = sketch.face
    shadow, bright = shade(face.skin, 0.5), mix(face.skin, (255, 246, 230), 0.5)
    sketch.fill(sketch.head, face.skin)
    half = face.half_width

    def at(x: float, y: float) -> Points:
        return sketch.surface(np.array([(x, y)], dtype=np.float64))

    far = sketch.outline(np.array([(-face.light * half * 1.15, 12.0)]))
    sketch.glow(far, half * 0.95, shadow, 0.62, tall=1.5)
    sketch.glow(at(0, face.chin + 8), 34, shadow, 0.4, tall=0.5)
    sketch.glow(at(face.light * 14, -36), 30, bright, 0.55, tall=0.7)
    for side in (-1, 1):
        sketch.glow(at(side * face.eye_distance, -2), 17, shadow, 0.3, tall=0.8)
        sketch.glow(at(side * 25, 17), 13, bright, 0.35 if side == face.light else 0.2)
        if face.rosy:
            blush = mix((236, 70, 84), face.skin, 0.1)
            sketch.glow(at(side * 28, 21), 18, blush, 0.7, tall=0.8)


def _draw_eye(sketch: Sketch, side: int) -> None:
    face = sketch.face
    along = np.linspace(-1, 1, 17)
    # A smile pushes the lower lids up.
    depth = face.eye_height * (0.5 if face.smile > 3 else 0.66)
    upper = -face.eye_height * (1 - along**2) ** 0.7
    lower = depth * (1 - along**2) ** 0.8

    def place(x: NDArray[np.float64], y: NDArray[np.float64]) -> Points:
        outwards = side * face.eye_distance + side * x
        return sketch.surface(np.column_stack((outwards, y - face.eye_slant * x)))

    def between_lids(x: float, y: float, radius: float, colour: Colour) -> None:
        cosine, sine = circle()
        across = np.clip(x + radius * cosine, -face.eye_width, face.eye_width)
        lids = [np.interp(across / face.eye_width, along, lid) for lid in (upper, lower)]
        sketch.fill(place(across, np.clip(y + radius * sine, *lids)), colour)

    x = face.eye_width * along
    sketch.fill(
        np.concatenate((place(x, upper), place(x, lower)[::-1])),
        mix(WHITE, face.skin, 0.1),
    )
    gaze = side * face.gaze
    between_lids(gaze, -0.6, 5.0, shade(face.iris, 0.5))
    between_lids(gaze, -0.6, 4.1, face.iris)
    between_lids(gaze, -0.6, 2.1, BLACK)
    between_lids(gaze + side * (1.6 * face.light), -2.2, 1.2, WHITE)
    lash = mix(shade(face.skin, 0.85), BLACK, 0.6)
    sketch.stroke(place(x, lower + 0.4), shade(face.skin, 0.35), 0.9)
    sketch.stroke(place(x, upper - 4.2 + along * 0.5), shade(face.skin, 0.34), 1.4)
    sketch.stroke(place(x * 1.06, upper), lash, 1.9 if face.male else 3.0)
    if not face.male:
        for start, length in ((0.96, 3.4), (0.74, 3.0)):
            t = np.linspace(0, 1, 4)
            root = float(np.interp(start, along, upper))
            sketch.stroke(place(start * face.eye_width + length * t, root - 3.2 * t), lash, 1.4)


def _draw_nose(sketch: Sketch) -> None:
    face = sketch.face
    width, bottom = face.nose_width, face.nose_length
    shadow = shade(face.skin, 0.3)

    def at(*corners: tuple[float, float], lift: float = 8) -> Points:
        return sketch.surface(curve(*corners), lift)

    away = -face.light
    sketch.glow(at((away * 5, bottom - 6), (away * 5, bottom - 6))[:1], width, shadow, 0.5)
    bridge = at((away * 4, -8), (away * 4, 4), (away * (width * 0.5), bottom - 6))
    sketch.stroke(bridge, mix(face.skin, shadow, 0.55), 2.2)
    bright = mix(face.skin, (255, 248, 236), 0.6)
    sketch.glow(at((face.light, bottom - 7), (0, 0))[:1], width * 0.62, bright, 0.7)
    wing, low = width, bottom - 1.5
    for side in (-1, 1):
        nostril = at(
            (side * wing * 0.8, low - 7),
            (side * wing, low - 2.5),
            (side * wing * 0.75, low + 1),
        )
        sketch.stroke(nostril, shade(face.skin, 0.4), 1.8)
        hole = oval(side * width * 0.42, low + 0.6, width * 0.2, 1.5)
        sketch.fill(sketch.surface(hole, 8), shade(face.skin, 0.6))
    tip = at((-width * 0.5, low + 1.5), (0, low + 3.5), (width * 0.5, low + 1.5))
    sketch.stroke(tip, shade(face.skin, 0.4), 1.6)


def _draw_beard(sketch: Sketch) -> None:
    face = sketch.face
    if face.beard in ("none", "mustache"):
        return
    colour = face.brow_colour
    reach = face.mouth_width
    if face.beard == "full":
        angle = np.linspace(-0.12, np.pi + 0.12, 37)
        cosine, sine = np.cos(angle), np.sin(angle)
        jaw = np.sign(cosine) * np.abs(cosine) ** face.jaw
        outer = np.column_stack((jaw * (face.half_width + 1), sine * (face.chin + 5)))
        cheek = np.sign(cosine) * np.abs(cosine) ** 0.9 * (face.half_width - 5)
        inner = np.column_stack((cheek, 29 * np.abs(sine) ** 0.55 * np.sign(sine) + 0.0))
        inner = np.where(np.abs(inner[:, :1]) < 8, np.maximum(inner, (-99, 27)), inner)
        sketch.ribbon(sketch.outline(outer), sketch.surface(inner), colour, strands=7)
    else:
        shape = curve(
            (-reach * 0.72, MOUTH + 8),
            (0, MOUTH + 12),
            (reach * 0.72, MOUTH + 8),
            (reach * 0.7, face.chin - 5),
            (0, face.chin + 6),
            (-reach * 0.7, face.chin - 5),
            closed=True,
        )
        sketch.fill(sketch.surface(shape), colour)
    if face.beard == "circle":
        for side in (-1, 1):
            outer = curve((side * 6, 29), (side * (reach + 6), MOUTH), (side * 10, face.chin - 2))
            inner = curve((side * 6, 33), (side * (reach + 1), MOUTH), (side * 6, face.chin - 8))
            sketch.ribbon(sketch.surface(outer), sketch.surface(inner), colour, strands=2)


def _draw_mouth(sketch: Sketch) -> None:
    face = sketch.face
    top, inner_top, inner_bottom, bottom = (sketch.surface(edge, 3) for edge in _lips(face))
    dark = mix(shade(face.lip_colour, 0.6), BLACK, 0.3)
    sketch.fill(np.concatenate((top, bottom[::-1])), face.lip_colour)
    sketch.fill(np.concatenate((top, inner_top[::-1])), shade(face.lip_colour, 0.16))
    if face.gap:
        sketch.fill(np.concatenate((inner_top, inner_bottom[::-1])), dark)
        teeth = inner_top + (inner_bottom - inner_top) * (0.62 if face.smile > 3 else 0.4)
        sketch.fill(np.concatenate((inner_top, teeth[::-1])), (246, 242, 236))
    else:
        sketch.stroke(inner_top, dark, 1.7)
    shine = inner_bottom[9:16] + (bottom - inner_bottom)[9:16] * 0.45
    sketch.stroke(shine, mix(face.lip_colour, WHITE, 0.35), 1.2)
    if face.smile > 3:
        for side in (-1, 1):
            x = side * face.mouth_width
            fold = curve((x * 0.86, 21), (x * 1.2, 27), (x * 1.26, MOUTH - 3))
            sketch.stroke(sketch.surface(fold, 3), shade(face.skin, 0.24), 1.3)


def _draw_mustache(sketch: Sketch) -> None:
    face = sketch.face
    if face.beard not in ("mustache", "circle", "full"):
        return
    lip = _lips(face)[0]
    # Above the mouth, whatever its shape.
    lower = lip * (1.1, 1) + (0, 1)
    t = np.linspace(-1, 1, len(lower))
    upper = np.column_stack((lower[:, 0], lower[:, 1] - 1 - 7.5 * (1 - t**2) ** 0.6))
    sketch.ribbon(sketch.surface(upper, 4), sketch.surface(lower, 4), face.brow_colour, strands=3)


def _draw_brow(sketch: Sketch, side: int) -> None:
    face = sketch.face
    along = np.linspace(-1, 1, 13)
    x = side * (face.eye_distance + 1 + 12 * along)
    base = -14.5 if face.male else -15.5
    y = base - face.brow_arch * (1 - (along - 0.2) ** 2) - face.brow_slant * along
    sketch.stroke(
        sketch.surface(np.column_stack((x, y)), lift=3),
        face.brow_colour,
        face.brow_thickness,
    )


def _draw_glasses(sketch: Sketch) -> None:
    face = sketch.face
    if face.frames == "none":
        return
    width, height, corners = {
        "round": (14.0, 13.5, 1.0),
        "square": (15.0, 12.0, 0.5),
        "wide": (16.0, 10.5, 0.7),
    }[face.frames]
    for side in (-1, 1):
        x = side * (face.eye_distance + 0.5)
        arm = np.array([(x + side * width, -3.0), (side * face.half_width, -2.0)])
        inner, outer = sketch.surface(arm[:1], 5), sketch.outline(arm[1:])
        sketch.line(np.concatenate((inner, outer)), face.frame_colour, 2.4)
        sketch.line(
            sketch.surface(oval(x, 1, width, height, corners), 5),
            face.frame_colour,
            2.4,
        )
    gap = face.eye_distance + 0.5 - width
    bridge = curve((-gap, -2), (0, -5), (gap, -2))
    sketch.line(sketch.surface(bridge, 8), face.frame_colour, 2.4)


def _draw_hair_in_front(sketch: Sketch) -> None:
    face = sketch.face
    if face.hair == "bald":
        return
    angle = np.linspace(-0.22, np.pi + 0.22, 41)
    cosine, sine = np.cos(angle), np.sin(angle)
    crown = np.clip(sine, 0, 1)
    thickness = face.volume * (0.3 + 0.7 * crown**0.5)
    outer = np.column_stack((-(face.half_width + thickness) * cosine, -(62 + thickness) * sine))
    if face.wave:
        outer *= 1 + 0.3 * face.wave / 62 * np.sin(9 * angle + face.phase)[:, None] * crown[:, None]
    x = -(face.half_width - 3) * np.sign(cosine) * np.abs(cosine) ** 0.5
    line = -41 * np.sign(sine) * np.abs(sine) ** 0.5
    line -= 7 * np.exp(-(((x - face.parting) / 10) ** 2))
    if face.wave:
        line += 0.4 * face.wave * np.sin(x / 4 + face.phase) * crown
    inner = np.column_stack((x, line))
    on_face = sketch.surface(inner)
    shadow = shade(face.skin, 0.3)
    sketch.fill(np.concatenate((on_face, (on_face + (0, 2.6 * sketch.unit))[::-1])), shadow)
    if face.bangs != "none":
        _draw_bangs(sketch, shadow)
    sketch.ribbon(sketch.outline(outer), on_face, face.hair_colour, strands=7)
    if face.hair in ("bob", "long"):
        for side in (-1, 1):
            edge = sketch.outline(_fall(face, side, 0, -24, 7))
            lock = _fall(face, side, face.volume + 8, -24, 4)
            sketch.ribbon(edge, sketch.outline(lock), face.hair_colour, strands=4)


def _draw_bangs(sketch: Sketch, shadow: Colour) -> None:
    face = sketch.face
    t = np.linspace(-1, 1, 25)
    x = (face.half_width - 3) * t
    lean = {"straight": 0.0, "left": -7.0, "right": 7.0}.get(face.bangs, 0.0)
    tips = -24 - lean * t * 0.8 + 1.2 * np.sin(12 * t + face.phase) + 5 * t**4
    if face.wave:
        tips += 1.6 * np.sin(9 * t + face.phase)
    lower = sketch.surface(np.column_stack((x, np.minimum(tips, -19))), 2)
    upper = sketch.surface(np.column_stack((x * 0.9, np.full(25, -50.0))), 2)
    sketch.fill(np.concatenate((upper, (lower + (0, 2.4 * sketch.unit))[::-1])), shadow)
    sketch.fill(np.concatenate((upper, lower[::-1])), face.hair_colour)
    light, dark = mix(face.hair_colour, WHITE, 0.14), shade(face.hair_colour, 0.3)
    for position in range(3, 23, 3):
        strand = np.linspace(upper[position], lower[position], 5)
        sketch.stroke(strand, light if position % 2 else dark, 1.3)


def _draw_earrings(sketch: Sketch) -> None:
    face = sketch.face
    if face.earrings == "none":
        return
    for side in (-1, 1):
        x = _ear_position(face, side, 4)
        if face.earrings == "hoop":
            sketch.line(sketch.behind(oval(x, 28, 5, 7)), face.earring_colour, 1.8)
        elif face.earrings == "stud":
            sketch.fill(sketch.behind(oval(x, 20, 3.4, 3.4)), face.earring_colour)
            sketch.fill(sketch.behind(oval(x - 1, 19, 1, 1)), WHITE)
        else:
            drop = curve((x, 18), (x + 4, 31), (x, 36), (x - 4, 31), closed=True)
            sketch.fill(sketch.behind(drop), face.earring_colour)


def _draw_hat(sketch: Sketch) -> None:
    face = sketch.face
    if face.hat == "none":
        return
    colour, dark = face.hat_colour, shade(face.hat_colour, 0.28)
    light = mix(face.hat_colour, WHITE, 0.22)
    reach = face.half_width + 6
    angle = np.linspace(0, np.pi, 25)
    tall = {"beanie": 60.0, "cap": 48.0, "brimmed": 56.0}[face.hat]
    squareness = 0.7 if face.hat == "brimmed" else 0.9
    dome_x = -reach * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** squareness
    dome = sketch.behind(np.column_stack((dome_x, -26 - tall * np.sin(angle) ** squareness)))
    across = np.linspace(-1, 1, 25)
    edge = sketch.behind(np.column_stack((reach * across, -25 - 6 * (1 - across**2))))
    under = edge + (0, 3 * sketch.unit)
    sketch.fill(np.concatenate((edge[3:-3], under[3:-3][::-1])), shade(face.skin, 0.3))
    sketch.ribbon(dome, edge, colour, strands=0)
    if face.hat == "beanie":
        fold = np.column_stack((across * (reach + 1.5), -40 - 7 * (1 - across**2)))
        sketch.ribbon(sketch.behind(fold), edge, light, strands=0)
        for position in range(1, 24, 2):
            rib = np.stack((sketch.behind(fold)[position], edge[position]))
            sketch.line(rib, colour, 0.8)
    elif face.hat == "cap":
        for x in (-20.0, 0.0, 20.0):
            seam = curve((0, -74), (x * 0.8, -60), (x, -31))
            sketch.stroke(sketch.surface(seam, 6), dark, 1.0)
        visor = np.column_stack((across * 40, -20 - 9 * across**2))
        top = np.column_stack((across * 40, -29 - 5 * (1 - across**2)))
        lower, upper = sketch.surface(visor, 16), sketch.surface(top, 6)
        sketch.ribbon(upper, lower, dark, strands=0)
        sketch.stroke(lower, light, 1.2)
    else:
        band = np.column_stack((across * reach, -44 - 6 * (1 - across**2)))
        sketch.ribbon(sketch.behind(band), edge, dark, strands=0)
        sketch.fill(sketch.behind(oval(0, -27, reach + 24, 7.5, 0.85)), colour)
        front = np.column_stack((across * (reach + 20), -25 + 4 * (1 - across**2)))
        sketch.stroke(sketch.behind(front), light, 1.4)
