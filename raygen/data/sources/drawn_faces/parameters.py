"""What a drawn face can look like: its parameters, how they are chosen, and what they show."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

Colour = tuple[int, int, int]
Choice = TypeVar("Choice")

ATTRIBUTES: tuple[str, ...] = (
    "Bald",
    "Bangs",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "Pale_Skin",
    "Rosy_Cheeks",
    "Smiling",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
)
"""Binary attributes of every face, named and meant as in CelebA."""

HairStyle = Literal["bald", "short", "swept", "afro", "bob", "long", "tucked", "bun", "ponytail"]
HairColour = Literal["black", "brown", "blond", "gray", "red"]
Beard = Literal["none", "mustache", "goatee", "circle", "full"]
Hat = Literal["none", "beanie", "cap", "brimmed"]
Frames = Literal["none", "round", "square", "wide"]
_SKIN_TONES: tuple[Colour, ...] = (
    (252, 231, 221),  # The pale one; the rest are clearly darker.
    (238, 200, 172),
    (224, 178, 142),
    (196, 145, 106),
    (150, 103, 73),
    (106, 71, 51),
)
_HAIR_COLOURS: dict[HairColour, tuple[Colour, Colour]] = {
    "black": ((26, 22, 25), (44, 36, 38)),
    "brown": ((80, 48, 30), (132, 88, 54)),
    "blond": ((206, 160, 84), (240, 210, 142)),
    "gray": ((140, 140, 146), (204, 204, 206)),
    "red": ((142, 54, 26), (188, 88, 44)),
}
_IRIS_COLOURS: tuple[Colour, ...] = (
    (74, 44, 26),
    (110, 70, 36),
    (92, 128, 74),
    (84, 136, 176),
    (112, 130, 140),
)
_LIPSTICKS: tuple[Colour, ...] = (
    (196, 22, 48),
    (206, 36, 96),
    (150, 18, 54),
    (226, 60, 62),
)
_CLOTHES: tuple[Colour, ...] = (
    (46, 62, 94),
    (150, 52, 58),
    (66, 110, 98),
    (222, 216, 204),
    (88, 84, 92),
    (208, 160, 78),
    (120, 98, 148),
    (96, 148, 180),
)


@dataclass(frozen=True)
class Face:
    """Everything that one picture shows. Lengths are in pixels of the finished picture.

    Attributes:
        turn, tilt: of the head in radians, positive towards the right of the picture.
        light: the side that the light comes from: -1 left, 1 right.
        half_width, chin: of the head: the cheeks' distance from its axis, the chin's depth
            below the eyes.
        jaw: 0.7 for a square one, 1.1 for a pointed one.
        wave: hair's deviation from a straight fall; 0 if not wavy.
        smile: how far the corners of the mouth rise, negative for fall.
        gap: between the lips.
    """

    turn: float
    tilt: float
    scale: float
    shift: tuple[float, float]
    light: float
    backdrop: tuple[Colour, Colour, Colour]
    backdrop_spots: tuple[tuple[float, float, float], tuple[float, float, float]]
    clothes: Colour
    neckline: Literal["round", "v", "collar"]
    male: bool
    half_width: float
    chin: float
    jaw: float
    skin: Colour
    pale: bool
    rosy: bool
    hair: HairStyle
    hair_name: HairColour
    hair_colour: Colour
    volume: float
    ends: float
    wave: float
    phase: float
    parting: float
    bangs: Literal["none", "straight", "left", "right"]
    hat: Hat
    hat_colour: Colour
    brow_colour: Colour
    brow_thickness: float
    brow_arch: float
    brow_slant: float
    eye_distance: float
    eye_width: float
    eye_height: float
    eye_slant: float
    gaze: float
    iris: Colour
    frames: Frames
    frame_colour: Colour
    nose_width: float
    nose_length: float
    mouth_width: float
    smile: float
    gap: float
    lip: float
    lip_colour: Colour
    lipstick: bool
    beard: Beard
    earrings: Literal["none", "hoop", "stud", "drop"]
    earring_colour: Colour


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour at `share` (0 to 1) of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(colour: Colour, strength: float) -> Colour:
    # Shadows on skin and hair are warm, not gray.
    return mix(colour, (colour[0] // 3, colour[1] // 5, colour[2] // 5), strength)


def sample_face(seed: int, index: int) -> Face:
    """Choose one face.

    Args: seed, index: 0 or more.
    Raises: ValueError if either is negative.
    """
    random = np.random.default_rng((seed, index))

    def chance(probability: float) -> bool:
        return bool(random.random() < probability)

    def between(low: float, high: float) -> float:
        return float(low + (high - low) * random.random())

    def one_of(choices: dict[Choice, float]) -> Choice:
        weights = np.cumsum(list(choices.values()))
        return list(choices)[int(np.searchsorted(weights, random.random() * weights[-1]))]

    def any_of(colours: tuple[Colour, ...]) -> Colour:
        return colours[int(random.integers(len(colours)))]

    def pastel() -> Colour:
        low, high = 110, 236
        red, green, blue = (int(value) for value in random.integers(low, high, 3))
        return red, green, blue

    male = chance(0.5)
    tone = one_of({0: 0.17, 1: 0.27, 2: 0.2, 3: 0.14, 4: 0.12, 5: 0.1})
    skin = mix(_SKIN_TONES[tone], _SKIN_TONES[max(tone - 1, 1)], between(0, 0.4) if tone else 0)
    dark = tone >= 4
    hair_name: HairColour = one_of(
        {
            "black": 0.5 if dark else 0.2,
            "brown": 0.28 if dark else 0.26,
            "blond": 0.06 if dark else 0.27,
            "gray": 0.15 if dark else 0.16,
            "red": 0.02 if dark else 0.12,
        }
    )
    hair_colour = mix(*_HAIR_COLOURS[hair_name], between(0, 1))
    hair: HairStyle = one_of(
        {
            "bald": 0.24,
            "short": 0.3,
            "swept": 0.28,
            "afro": 0.08,
            "bob": 0.04,
            "long": 0.06,
        }
        if male
        else {
            "bald": 0.02,
            "short": 0.06,
            "swept": 0.06,
            "afro": 0.09,
            "bob": 0.2,
            "long": 0.23,
            "tucked": 0.16,
            "bun": 0.08,
            "ponytail": 0.1,
        }
    )
    falls = hair in ("bob", "long", "tucked")
    # A hat would hide that a head is bald, and does not fit over these styles.
    hat: Hat = "none"
    if hair not in ("bald", "afro", "bun") and chance(0.2):
        hat = one_of({"beanie": 0.4, "cap": 0.3, "brimmed": 0.3})
    wavy = hair == "afro" or chance(0.5 if falls else 0.3)
    if hair in ("bald", "bun") or (hat != "none" and not falls):
        wavy = False
    with_bangs = hat == "none" and hair not in ("bald", "afro") and chance(0.3)
    beard: Beard = "none"
    if male:
        beard = one_of(
            {
                "none": 0.38,
                "mustache": 0.13,
                "goatee": 0.14,
                "circle": 0.14,
                "full": 0.21,
            }
        )
    lipstick = not male and chance(0.52)
    lip = mix(skin, (168, 70, 74), 0.4)
    smiling = chance(0.48)
    open_mouth = chance(0.45 if smiling else 0.28)
    glasses = chance(0.26)
    bushy = chance(0.42 if male else 0.14)
    big_nose = chance(0.24)
    jewelled = chance(0.05 if male else 0.42)
    light = -1.0 if chance(0.5) else 1.0
    brow_colour = shade(hair_colour, 0.3 if hair_name in ("blond", "gray") else 0.1)
    if max(abs(a - b) for a, b in zip(brow_colour, skin, strict=True)) < 64:
        # Brows and beard would have the colour of the skin.
        brow_colour = shade(hair_colour, 0.85)
    clothes = any_of(_CLOTHES)
    backdrop = pastel()
    return Face(
        turn=between(-0.34, 0.34),
        tilt=between(-0.07, 0.07),
        scale=between(0.95, 1.05),
        shift=(between(-2, 2), between(-2, 2)),
        light=light,
        backdrop=(backdrop, mix(backdrop, pastel(), 0.6), mix(backdrop, pastel(), 0.7)),
        backdrop_spots=(
            (between(0, 1), between(0, 1), between(0.2, 0.5)),
            (between(0, 1), between(0, 1), between(0.2, 0.5)),
        ),
        clothes=clothes,
        neckline=one_of({"round": 0.4, "v": 0.3, "collar": 0.3}),
        male=male,
        half_width=between(46.5, 50.5) if male else between(44.5, 48.5),
        chin=between(64, 68) if male else between(60, 64),
        jaw=between(0.68, 0.84) if male else between(0.92, 1.1),
        skin=skin,
        pale=tone == 0,
        rosy=chance(0.1 if male else 0.32),
        hair=hair,
        hair_name=hair_name,
        hair_colour=hair_colour,
        volume=_volume(hair, hat, between(0, 1)),
        ends=between(44, 60) if hair == "bob" else between(84, 112),
        wave=between(3.2, 4.6) if wavy else 0.0,
        phase=between(0, 6.28),
        parting=between(-24, 24),
        bangs=one_of({"straight": 0.5, "left": 0.25, "right": 0.25}) if with_bangs else "none",
        hat=hat,
        hat_colour=any_of(_CLOTHES),
        brow_colour=brow_colour,
        brow_thickness=between(6.2, 7.6) if bushy else between(2.2, 3.6),
        brow_arch=between(1, 3) if male else between(2.5, 5),
        brow_slant=between(-2.5, 2.5),
        eye_distance=between(20.0, 22.0),
        eye_width=between(9.0, 10.4),
        eye_height=between(2.3, 3.0) if chance(0.22) else between(5.0, 6.6),
        eye_slant=between(-0.04, 0.14),
        gaze=between(-2.2, 2.2),
        iris=any_of(_IRIS_COLOURS[:2] if dark else _IRIS_COLOURS),
        frames=one_of({"round": 0.35, "square": 0.35, "wide": 0.3}) if glasses else "none",
        frame_colour=any_of(((26, 24, 28), (84, 44, 26), (150, 30, 44), (40, 54, 92))),
        nose_width=between(15.0, 17.5) if big_nose else between(8.5, 11.0),
        nose_length=between(24, 27) if big_nose else between(20, 23),
        mouth_width=between(17.5, 20) if smiling else between(13.5, 16),
        smile=between(5.5, 8) if smiling else between(-1.6, 0.4),
        gap=between(6, 9) if open_mouth else 0.0,
        lip=between(3.6, 4.8) if not male else between(2.4, 3.4),
        lip_colour=mix(any_of(_LIPSTICKS), lip, 0.1) if lipstick else lip,
        lipstick=lipstick,
        beard=beard,
        earrings=one_of({"hoop": 0.4, "stud": 0.25, "drop": 0.35}) if jewelled else "none",
        earring_colour=any_of(((232, 190, 76), (226, 230, 238), (60, 160, 150))),
    )


def _volume(hair: HairStyle, hat: Hat, share: float) -> float:
    low, high = {"afro": (14.0, 20.0), "short": (3.5, 6.0)}.get(hair, (6.0, 10.0))
    # A hat presses the hair to the head.
    return 4.0 if hat != "none" else low + (high - low) * share


def attributes_of(face: Face) -> dict[str, bool]:
    hairy = face.hair != "bald"
    return {
        "Bald": not hairy,
        "Bangs": face.bangs != "none",
        "Big_Nose": face.nose_width > 13,
        "Black_Hair": hairy and face.hair_name == "black",
        "Blond_Hair": hairy and face.hair_name == "blond",
        "Brown_Hair": hairy and face.hair_name == "brown",
        "Bushy_Eyebrows": face.brow_thickness > 5,
        "Eyeglasses": face.frames != "none",
        "Goatee": face.beard in ("goatee", "circle"),
        "Gray_Hair": hairy and face.hair_name == "gray",
        "Male": face.male,
        "Mouth_Slightly_Open": face.gap > 0,
        "Mustache": face.beard in ("mustache", "circle", "full"),
        "Narrow_Eyes": face.eye_height < 4,
        "Pale_Skin": face.pale,
        "Rosy_Cheeks": face.rosy,
        "Smiling": face.smile > 3,
        "Wavy_Hair": face.wave > 0,
        "Wearing_Earrings": face.earrings != "none",
        "Wearing_Hat": face.hat != "none",
        "Wearing_Lipstick": face.lipstick,
    }
