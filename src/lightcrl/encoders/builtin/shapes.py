"""Pictures as colours, gradients, texture and counted regions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from lightcrl.encoders.base import Encoder
from lightcrl.encoders.builtin.descriptors import PATTERNS, binary_patterns, oriented_gradients, otsu_threshold
from lightcrl.encoders.image import read_image
from lightcrl.errors import EncoderError
from lightcrl.tokens import TokenBatch

RINGS, ANGLES, HARMONICS = 4, 32, 8
OUTLINE = 3 + 3 + 2 + RINGS + HARMONICS
# Greatest count that is distinguished.
MOST = 8


class ShapesAndColours(Encoder):
    """Pictures as a grid of cells, the whole picture, and the regions that differ from the background.

    A cell has a histogram of oriented gradients, mean and spread of colour, a histogram of hues, and local binary
    patterns; the whole picture has all except the first. The last token has the number of regions, and the mean and
    spread of their colour, place, size and outline: the spectrum of the distance from the centre, with a peak at 3 for
    a triangle and at 4 for a square, in any orientation.

    Args:
        size: width and height in pixels to which pictures are resized.
        grid: cells per side.
        max_pixels: greatest number of pixels; larger pictures are set aside.
    """

    kind = "image"
    version = 1

    def __init__(self, size: int = 96, grid: int = 4, max_pixels: int = 50_000_000) -> None:
        if not (isinstance(grid, int) and isinstance(size, int)):
            raise EncoderError(f"size = {size!r}, grid = {grid!r}: expected whole numbers.")
        if grid < 1 or size % (2 * grid) or size // grid < 8:
            raise EncoderError(f"size = {size}, grid = {grid}: expected cells of an even number of pixels, at least 8.")
        self.size, self.grid, self.max_pixels = size, grid, max_pixels
        self.slots = grid * grid + 2
        place = np.arange(size) * grid // size
        self._cell = place[:, None] * grid + place
        self.dim = self._tokens(Image.new("RGB", (size, size))).shape[1]

    def describe(self) -> Mapping[str, Any]:
        """Return name, version and options."""
        return {"encoder": "builtin:shapes", "version": self.version, "size": self.size, "grid": self.grid}

    def prepare(self, raw: Any) -> np.ndarray:
        """Return tokens [grid * grid + 2, D] of a picture.

        Raises:
            ItemError: see `read_image`.
        """
        image = read_image(raw, self.max_pixels)
        return self._tokens(image.resize((self.size, self.size), Image.Resampling.BICUBIC))

    def encode(self, prepared: Sequence[np.ndarray]) -> TokenBatch:
        """Return the tokens as a batch."""
        return TokenBatch.full(torch.from_numpy(np.stack(prepared)))

    def _tokens(self, image: Image.Image) -> np.ndarray:
        rgb = np.asarray(image, dtype=np.float32) / 255
        mean = self._means(rgb)
        spread = np.sqrt(np.maximum(self._means(rgb**2) - mean**2, 0))
        hues = self._hues(image)
        grey = np.asarray(image.convert("L"))
        patterns = [binary_patterns(grey, radius) for radius in (1, 2)]
        fine, coarse = (self._histogram(codes, PATTERNS) for codes in patterns)
        cells = np.concatenate([self._gradients(rgb), mean, spread, np.sqrt(hues), np.sqrt(fine)], axis=1)
        overall = [rgb.mean((0, 1)), rgb.std((0, 1)), *(np.sqrt(part.mean(0)) for part in (hues, fine, coarse))]
        rows = [*cells, np.concatenate(overall), self._regions(rgb, patterns[1])]
        tokens = np.zeros((len(rows), max(map(len, rows))), dtype=np.float32)
        for token, row in zip(tokens, rows, strict=True):
            token[: len(row)] = row
        return tokens

    def _means(self, maps: np.ndarray) -> np.ndarray:
        """Return means over the cells of maps [size, size, C], [grid * grid, C]."""
        step = self.size // self.grid
        means: np.ndarray = maps.reshape(self.grid, step, self.grid, step, -1).mean((1, 3), dtype=np.float64)
        return means.reshape(self.grid**2, -1)

    def _histogram(self, codes: Any, bins: int, weights: Any = None) -> np.ndarray:
        """Return the share of a cell's pixels with each code, [grid * grid, bins]."""
        places = (self._cell * bins + codes.astype(np.int64)).ravel()
        counts = np.bincount(places, None if weights is None else weights.ravel(), self.grid**2 * bins)
        return (counts.reshape(-1, bins) * (self.grid / self.size) ** 2).astype(np.float32)

    def _hues(self, image: Image.Image, bins: int = 12) -> np.ndarray:
        """Return the share of each hue, for coloured pixels, and of black, grey and white, [grid * grid, bins + 3].

        A pixel counts for the two bins nearest to it.
        """
        hue, saturation, value = np.moveaxis(np.asarray(image.convert("HSV"), dtype=np.float32) / 255, -1, 0)
        colourful = saturation * value
        shares = []
        for place, count, weight in ((hue * bins, bins, colourful), (value * 2, 3, 1 - colourful)):
            below = np.floor(place)
            nearness = 1 - (place - below)
            first = below.astype(np.int64) % count
            after = np.where(first == count - 1, 0, first + 1)
            lower = self._histogram(first, count, weight * nearness)
            shares.append(lower + self._histogram(after, count, weight * (1 - nearness)))
        return np.concatenate(shares, axis=1)

    def _gradients(self, rgb: np.ndarray) -> np.ndarray:
        """Return nine orientations in each quarter of a cell, normalised over the cell, [grid * grid, 36]."""
        half = self.size // self.grid // 2
        return oriented_gradients(rgb, half)[::2, ::2].reshape(self.grid**2, -1)

    def _regions(self, rgb: np.ndarray, patterns: np.ndarray) -> np.ndarray:
        """Return mean and spread of the regions' outlines, their number (up to it, and exactly), texture, area."""
        distance = _from_background(rgb)
        mask = distance > max(otsu_threshold(distance), 0.1)
        # Opening cuts the bridges between regions that almost touch.
        solid = ndimage.binary_opening(ndimage.binary_fill_holes(mask))
        labels, _ = ndimage.label(solid)
        areas = np.bincount(labels.ravel())
        large = [region for region in range(1, len(areas)) if areas[region] >= self.size**2 / 400]
        each = np.array([_outline(labels == region, mask, rgb) for region in large] or [np.zeros(OUTLINE)])
        numbers = np.arange(1, MOST + 1)
        texture = np.bincount(patterns[solid], minlength=PATTERNS) / max(int(solid.sum()), 1)
        counts = [numbers <= len(large), numbers == len(large)]
        return np.concatenate([each.mean(0), each.std(0), *counts, np.sqrt(texture), [solid.mean()]])


def _from_background(rgb: np.ndarray) -> np.ndarray:
    """Return the distance of a pixel's colour from the border's, [H, W]; darker shades, as in shadows, are near."""
    border = np.median(np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]), axis=0)
    direction = border / max(float(np.linalg.norm(border)), 1e-6)
    difference = rgb - border
    along = difference @ direction
    across = difference - along[..., None] * direction
    red, green, blue = np.moveaxis(across**2, -1, 0)  # a sum over an axis of three takes ten times as long
    return np.asarray(np.sqrt(red + green + blue + np.where(along < 0, 0.25 * along, along) ** 2))


def _outline(solid: np.ndarray, mask: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """Return a region's colour (3), place and root of area (3), compactness, fill of the bounding box, fill of four
    rings around its centre, outline spectrum.
    """
    rows, columns = np.nonzero(solid)
    size, area = len(solid), len(rows)
    y, x = rows - rows.mean(), columns - columns.mean()
    radius = np.hypot(y, x)
    compact = area**2 / (2 * math.pi * max(float((radius**2).sum()), 1e-12))
    box = area / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1))
    ring = np.minimum((radius / max(float(radius.max()), 1e-12) * RINGS).astype(int), RINGS - 1)
    inside = mask[rows, columns]
    rings = np.bincount(ring, inside, RINGS) / np.maximum(np.bincount(ring, minlength=RINGS), 1)
    reach = np.zeros(ANGLES)
    np.maximum.at(reach, ((np.arctan2(y, x) / (2 * math.pi) % 1) * ANGLES).astype(int) % ANGLES, radius)
    spectrum = np.abs(np.fft.rfft(reach))[1 : 1 + HARMONICS] / max(float(reach.sum()), 1e-12)
    place = [rows.mean() / size, columns.mean() / size, math.sqrt(area) / size]
    return np.concatenate([rgb[rows, columns].mean(0), place, [min(compact, 1.5), box], rings, 5 * spectrum])
