"""Pictures of scenes: 96 x 96, with smooth edges, a soft shadow and slight noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lightcrl.data.synthetic.scene import Scene, Seed

SIZE = 96
FINER = 4  # shapes are drawn this many times larger, then averaged

Colour = tuple[int, int, int]
COLOURS: Mapping[str, Colour] = {
    "red": (220, 50, 47),
    "orange": (243, 138, 32),
    "yellow": (247, 208, 50),
    "green": (60, 166, 78),
    "teal": (32, 180, 184),
    "blue": (48, 102, 214),
    "purple": (134, 70, 190),
    "pink": (241, 122, 178),
}
BACKGROUNDS: Mapping[str, Colour] = {
    "white": (250, 250, 249),
    "grey": (200, 203, 208),
    "cream": (250, 239, 212),
    "sky": (206, 228, 248),
    "mint": (208, 240, 220),
    "night": (40, 44, 62),
}
CENTRES = {"left": (0.3, 0.5), "right": (0.7, 0.5), "top": (0.5, 0.3), "bottom": (0.5, 0.7), "centre": (0.5, 0.5)}
RADII = {1: 23.0, 2: 14.0, 3: 12.5, 4: 11.0}  # pixels
SPREAD = 1.18  # distance of a shape from the middle of its group, in radii, for two shapes


def draw(scene: Scene, seed: Seed) -> Image.Image:
    """Draw a scene; `seed` determines size, tilt, arrangement, shade and noise."""
    rng = np.random.default_rng(seed)
    mask, outline = _silhouettes(scene, rng)
    shadow = mask.filter(ImageFilter.GaussianBlur(2.5)).transform(
        mask.size, Image.Transform.AFFINE, (1, 0, -2, 0, 1, -3)
    )
    inside, edge, shade = (np.asarray(layer, np.float32)[..., None] / 255 for layer in (mask, outline, shadow))

    across, down = _grid()
    light = 1.05 - 0.1 * (across + down)[..., None]  # from the upper left
    ground = np.array(BACKGROUNDS[scene.background], np.float32) * light
    colour = np.array(COLOURS[scene.colour], np.float32) * rng.uniform(0.94, 1.06) * (1.14 - 0.28 * down[..., None])
    pattern = _pattern(scene.texture, rng)[..., None]
    fill = colour * (1 - pattern) + (0.25 * colour + 0.75 * 255) * pattern
    picture = ground * (1 - 0.35 * shade)
    picture = picture * (1 - inside) + fill * inside
    picture = picture * (1 - edge) + 0.62 * colour * edge
    picture += rng.normal(0, rng.uniform(1.5, 5), picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _silhouettes(scene: Scene, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Return the filled shapes, and their outlines."""
    canvases = [Image.new("L", (SIZE * FINER, SIZE * FINER)) for _ in range(2)]
    filled, lined = (ImageDraw.Draw(canvas) for canvas in canvases)
    radius = RADII[scene.number] * rng.uniform(0.88, 1.1)
    for centre in _arrangement(scene, radius, rng):
        tilt = rng.uniform(-0.14, 0.14)
        turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        for number, path in enumerate(PATHS[scene.shape]):
            points = [tuple(point) for point in ((path @ turn * radius + centre) * FINER).tolist()]
            filled.polygon(points, fill=0 if number else 255)
            lined.line([*points, *points[:2]], fill=255, width=round(1.5 * FINER), joint="curve")
    mask, outline = (canvas.reduce(FINER) for canvas in canvases)
    return mask, outline


def _arrangement(scene: Scene, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Return the middle of each shape, [number, 2] pixels."""
    number = scene.number
    if number == 1:
        offsets = np.zeros((1, 2))
    else:
        angles = 2 * np.pi * np.arange(number) / number + rng.uniform(0, 2 * np.pi)
        distance = radius * SPREAD / np.sin(np.pi / number)
        offsets = distance * np.stack([np.cos(angles), np.sin(angles)], 1)
    middle = np.array(CENTRES[scene.position]) * SIZE + rng.uniform(-2, 2, 2)
    reach = np.abs(offsets).max(0) + 1.05 * radius + 1
    middle = np.maximum(np.minimum(middle, SIZE - reach), np.minimum(reach, SIZE / 2))
    return np.asarray(offsets + middle)


def _pattern(texture: str, rng: np.random.Generator) -> np.ndarray:
    """Return the share of the light tone at each pixel, [SIZE, SIZE] in [0, 1]."""
    across, down = (SIZE * axis for axis in _grid())
    angle, shift = rng.uniform(-0.3, 0.3) + np.pi / 4, rng.uniform(0, 2 * np.pi, 2)
    period = rng.uniform(6.5, 7.5)
    along, over = np.cos(angle) * across + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * across
    first, second = 2 * np.pi * along / period + shift[0], 2 * np.pi * over / period + shift[1]
    if texture == "striped":
        waves = 2.2 * np.cos(first)
    elif texture == "dotted":
        waves = 2.2 * (np.cos(first) + np.cos(second) - 0.75)
    elif texture == "chequered":
        waves = 3.5 * np.cos(first * 0.7) * np.cos(second * 0.7)
    else:
        waves = np.full_like(first, -1)
    return np.asarray((0.5 + waves).clip(0, 1), np.float32)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to the right and the distance down, each [SIZE, SIZE] in [0, 1]."""
    axis = (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE
    across, down = np.meshgrid(axis, axis)
    return across, down


def _polygon(corners: int, *radii: float, start: float = -np.pi / 2) -> np.ndarray:
    """Return points around the middle, [corners, 2], with alternating radii."""
    angles = start + 2 * np.pi * np.arange(corners) / corners
    return np.asarray(np.resize(radii, corners)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1))


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    up = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -up - 2], 1) / 15


# Closed paths around (0, 0) that fit a circle of radius 1; the area within a second path is a hole.
PATHS: Mapping[str, tuple[np.ndarray, ...]] = {
    "circle": (_polygon(64, 0.95),),
    "square": (_polygon(4, 1.05, start=np.pi / 4),),
    "triangle": (_polygon(3, 1.08) + np.array([0, 0.15]),),
    "star": (_polygon(10, 1.05, 0.45),),
    "cross": (
        np.array(
            [
                (a, b)
                for a, b in [
                    (-0.33, -1),
                    (0.33, -1),
                    (0.33, -0.33),
                    (1, -0.33),
                    (1, 0.33),
                    (0.33, 0.33),
                    (0.33, 1),
                    (-0.33, 1),
                    (-0.33, 0.33),
                    (-1, 0.33),
                    (-1, -0.33),
                    (-0.33, -0.33),
                ]
            ]
        ),
    ),
    "ring": (_polygon(64, 1.0), _polygon(64, 0.52)),
    "heart": (_heart(),),
    "diamond": (_polygon(4, 1.05, 0.7),),
}
