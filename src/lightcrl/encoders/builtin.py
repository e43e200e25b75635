"""Encoders without weights: fixed descriptors of texts, pictures and sounds, for work without a network.

They say what is there (words, colours, shapes, texture, places, pitch, rhythm) in numbers that a linear map can read.
Their tokens are float32 on the CPU, and the same on every machine up to rounding. Whoever changes what a descriptor
gives raises its `version`, which is part of the fingerprint.
"""

from __future__ import annotations

import math
OPEN=3
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from lightcrl.encoders.audio import LONGEST, read_sound
from lightcrl.encoders.base import Encoder
from lightcrl.encoders.image import read_image
from lightcrl.errors import EncoderError, ItemError, MissingExtraError
from lightcrl.tokens import TokenBatch

Array = npt.NDArray[np.float32]


class HashedNgrams(Encoder):
    """Texts as two tokens: words and pairs of words; runs of three to five letters.

    Counts enter by 1 + log, vectors have unit length before they are hashed to `dim` numbers of about unit size
    (a sparse random projection: each n-gram adds to eight places, with signs).

    Args:
        dim: width of a token.
    """

    kind = "text"
    version = 1
    slots = 2
    places = 8

    def __init__(self, dim: int = 512) -> None:
        try:
            from sklearn.feature_extraction.text import HashingVectorizer
        except ImportError as error:
            raise MissingExtraError("the built-in text encoder", "builtin") from error
        self.dim = dim
        shared = {"n_features": 1 << 20, "alternate_sign": False, "norm": None, "dtype": np.float32}
        self._views = (
            HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b", **shared),
            HashingVectorizer(ngram_range=(3, 5), analyzer="char_wb", **shared),
        )

    def describe(self) -> Mapping[str, Any]:
        """Name, version and options."""
        return {"encoder": "builtin:ngrams", "version": self.version, "dim": self.dim}

    def prepare(self, raw: Any) -> Array:
        """Tokens [2, dim] of a string.

        Raises:
            ItemError: not a string, or nothing in it.
        """
        if not isinstance(raw, str):
            raise ItemError("not a text", f"found {type(raw).__name__}")
        if not raw.strip():
            raise ItemError("empty text")
        return np.stack([self._project(view.transform([raw])) for view in self._views])

    def encode(self, prepared: Sequence[Array]) -> TokenBatch:
        """The tokens as a batch."""
        return _batch(prepared)

    def _project(self, counts: Any) -> Array:
        ngrams, weights = counts.indices.astype(np.uint64), 1 + np.log(counts.data)
        hashes = _mix(ngrams[:, None] * np.uint64(self.places) + np.arange(self.places, dtype=np.uint64))
        signs = np.where(hashes >> np.uint64(63), 1.0, -1.0)
        values = np.zeros(self.dim)
        np.add.at(values, hashes % np.uint64(self.dim), signs * weights[:, None])
        scale = math.sqrt(self.dim / self.places) / max(float(np.linalg.norm(weights)), 1e-12)
        return (values * scale).astype(np.float32)


def _mix(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Numbers spread over 64 bits (the finaliser of splitmix64): the same everywhere, unlike a library's generator."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class ShapesAndColours(Encoder):
    """Pictures as a grid of cells, the whole, and the regions that differ from the background.

    A cell has a histogram of oriented gradients, colour moments, a histogram of hues, and local binary patterns. The
    whole has the latter three, finer. The regions' token counts the connected regions and tells the mean and spread
    of their colour, size, place and outline; the outline is the spectrum of the distance from the centre, in which a
    triangle stands out at 3 and a square at 4, whichever way they are turned.

    Args:
        size: pictures are resized to `size` x `size` pixels.
        grid: cells per side.
        max_pixels: larger pictures are set aside.
    """

    kind = "image"
    version = 1

    def __init__(self, size: int = 96, grid: int = 4, max_pixels: int = 50_000_000) -> None:
        try:
            from scipy.ndimage import binary_fill_holes, binary_opening
            from skimage.color import rgb2hsv
            from skimage.feature import hog, local_binary_pattern
            from skimage.filters import threshold_otsu
            from skimage.measure import label
        except ImportError as error:
            raise MissingExtraError("the built-in image encoder", "builtin") from error
        if grid < 1 or size % (2 * grid) or size // grid < 8:
            raise EncoderError(f"size = {size}, grid = {grid}: expected cells of an even number of pixels, at least 8.")
        self._hsv, self._hog, self._patterns = rgb2hsv, hog, local_binary_pattern
        self._threshold, self._label, self._fill, self._open = threshold_otsu, label, binary_fill_holes, binary_opening
        self.size, self.grid, self.max_pixels = size, grid, max_pixels
        self.slots = grid * grid + 2
        self.dim = self._tokens(np.zeros((size, size, 3), dtype=np.uint8)).shape[1]

    def describe(self) -> Mapping[str, Any]:
        """Name, version and options."""
        return {"encoder": "builtin:shapes", "version": self.version, "size": self.size, "grid": self.grid}

    def prepare(self, raw: Any) -> Array:
        """Tokens [grid * grid + 2, D] of a picture.

        Raises:
            ItemError: see `read_image`.
        """
        image = read_image(raw, self.max_pixels)
        return self._tokens(np.asarray(image.resize((self.size, self.size), Image.Resampling.BICUBIC)))

    def encode(self, prepared: Sequence[Array]) -> TokenBatch:
        """The tokens as a batch."""
        return _batch(prepared)

    def _tokens(self, pixels: npt.NDArray[np.uint8]) -> Array:
        rgb = pixels / 255.0
        grey = pixels.astype(np.float64).mean(-1).round().astype(np.uint8)
        hues = _hue_histogram(self._hsv(rgb))
        patterns = {
            points: self._patterns(grey, points, radius, "uniform")
            for points, radius in ((8, 1), (16, 2))
        }
        coarse, fine = (np.eye(points + 2)[patterns[points].astype(int)] for points in (8, 16))
        cells = np.concatenate(
            [
                self._gradients(rgb),
                self._pool(rgb),
                np.sqrt(np.maximum(self._pool(rgb**2) - self._pool(rgb) ** 2, 0)),
                np.sqrt(self._pool(hues)),
                np.sqrt(self._pool(coarse)),
            ],
            axis=1,
        )
        flat = (0, 1)
        whole = np.concatenate([rgb.mean(flat), rgb.std(flat), np.sqrt(hues.mean(flat)), np.sqrt(fine.mean(flat))])
        regions = self._regions(rgb)
        width = max(cells.shape[1], len(whole), len(regions))
        rows = [*cells, whole, regions]
        return np.stack([np.pad(row, (0, width - len(row))) for row in rows]).astype(np.float32)

    def _pool(self, maps: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Means [grid * grid, C] over the cells of maps [size, size, C]."""
        step = self.size // self.grid
        return np.asarray(maps.reshape(self.grid, step, self.grid, step, -1).mean((1, 3)).reshape(self.grid**2, -1))

    def _gradients(self, rgb: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[grid * grid, 36]: nine orientations in each quarter of a cell, normalised over the cell."""
        half = self.size // self.grid // 2
        blocks = self._hog(
            rgb, 9, (half, half), (2, 2), block_norm="L2-Hys", feature_vector=False, channel_axis=-1
        )
        return np.asarray(blocks[::2, ::2]).reshape(self.grid**2, -1)

    def _regions(self, rgb: npt.NDArray[Any]) -> npt.NDArray[Any]:
        distance = _from_background(rgb)
        mask = distance > max(self._threshold(distance), 0.05)
        solid = self._open(self._fill(mask), iterations=OPEN)
        labels = self._label(solid, connectivity=1)
        least = self.size**2 / 400
        found = [number for number, area in enumerate(np.bincount(labels.ravel())) if number and area >= least]
        each = np.array([_outline(labels == number, mask, rgb) for number in found] or [np.zeros(_OUTLINE)])
        count = np.arange(_MOST) < len(found)
        exact = np.arange(_MOST) == len(found) - 1
        return np.concatenate([each.mean(0), each.std(0), count, exact, [solid.mean()]])


_ANGLES = 32
_HARMONICS = 8
_RINGS = 4
_OUTLINE = 3 + 3 + 2 + _RINGS + _HARMONICS
_MOST = 8


def _from_background(rgb: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[H, W]: how far a pixel's colour is from that of the border; darker shades of it, as in shadows, are near."""
    border = np.median(np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]), axis=0)
    direction = border / max(float(np.linalg.norm(border)), 1e-6)
    difference = rgb - border
    along = difference @ direction
    across = difference - along[..., None] * direction
    return np.sqrt((across**2).sum(-1) + np.where(along < 0, 0.25 * along, along) ** 2)


def _outline(solid: npt.NDArray[np.bool_], mask: npt.NDArray[np.bool_], rgb: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of one region: colour (3), place and root of area (3), compactness, fill of the bounding box, fill of four
    rings around its centre, outline spectrum.
    """
    rows, columns = np.nonzero(solid)
    size, area = len(solid), len(rows)
    y, x = rows - rows.mean(), columns - columns.mean()
    radius = np.hypot(y, x)
    compact = area**2 / (2 * math.pi * max(float((radius**2).sum()), 1e-12))
    box = area / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1))
    ring = np.minimum((radius / max(float(radius.max()), 1e-12) * _RINGS).astype(int), _RINGS - 1)
    inside = mask[rows, columns]
    rings = np.bincount(ring, inside, _RINGS) / np.maximum(np.bincount(ring, minlength=_RINGS), 1)
    reach = np.zeros(_ANGLES)
    np.maximum.at(reach, ((np.arctan2(y, x) / (2 * math.pi) % 1) * _ANGLES).astype(int) % _ANGLES, radius)
    spectrum = np.abs(np.fft.rfft(reach))[1 : 1 + _HARMONICS] / max(float(reach.sum()), 1e-12)
    place = [rows.mean() / size, columns.mean() / size, math.sqrt(area) / size]
    return np.concatenate([rgb[rows, columns].mean(0), place, [min(compact, 1.5), box], rings, 5 * spectrum])


def _hue_histogram(hsv: npt.NDArray[Any], bins: int = 12) -> npt.NDArray[Any]:
    """[H, W, bins + 3]: a pixel's share in the two hues nearest to its own, and in black, grey and white."""
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    colourful = saturation * value
    place = hue * bins
    shares = np.maximum(0, 1 - np.abs((np.arange(bins) - place[..., None] + bins / 2) % bins - bins / 2))
    levels = np.maximum(0, 1 - 2 * np.abs(value[..., None] - np.array([0, 0.5, 1])))
    return np.concatenate([shares * colourful[..., None], levels * (1 - colourful[..., None])], axis=-1)


class MelStatistics(Encoder):
    """Sounds as tokens over 64 mel bands: mean, spread, peak and mean change of the level; how much it pulses in six
    octaves of rhythm from 0.5 to 32 Hz; and its mean in `segments` equal parts of the sound.

    Args:
        segments: parts of the sound.
        max_length: seconds kept of a sound.
    """

    kind = "audio"
    version = 1
    dim = 64
    rate = 16_000
    hop = 160

    def __init__(self, segments: int = 8, max_length: float = LONGEST) -> None:
        self.segments, self.max_length = segments, max_length
        self.slots = 4 + len(_RHYTHMS) + segments
        self._window = np.hanning(401)[:400].astype(np.float32)
        self._filters = mel_filters(self.dim, 512, self.rate)

    def describe(self) -> Mapping[str, Any]:
        """Name, version and options."""
        return {
            "encoder": "builtin:mel",
            "version": self.version,
            "segments": self.segments,
            "max_length": self.max_length,
        }

    def prepare(self, raw: Any) -> Array:
        """Tokens [10 + segments, 64] of a sound.

        Raises:
            ItemError: see `read_sound`.
        """
        levels = self._levels(read_sound(raw, self.rate, self.max_length))
        changes = np.abs(np.diff(levels, axis=0, append=levels[-1:]))
        spectrum = np.abs(np.fft.rfft(levels - levels.mean(0), axis=0)) * math.sqrt(2) / len(levels)
        rhythm = np.fft.rfftfreq(len(levels), self.hop / self.rate)
        pulses = [np.sqrt((spectrum[(rhythm >= low) & (rhythm < 2 * low)] ** 2).sum(0)) for low in _RHYTHMS]
        parts = [part.mean(0) for part in np.array_split(np.repeat(levels, self.segments, axis=0), self.segments)]
        tokens = [levels.mean(0), levels.std(0), levels.max(0), changes.mean(0), *pulses, *parts]
        return np.stack(tokens).astype(np.float32)

    def encode(self, prepared: Sequence[Array]) -> TokenBatch:
        """The tokens as a batch."""
        return _batch(prepared)

    def _levels(self, sound: Array) -> Array:
        """[frames, 64] logarithmic levels, about 0 for speech and -2 for silence."""
        sound = np.pad(sound, (0, max(0, 400 - len(sound))))
        frames = np.lib.stride_tricks.sliding_window_view(sound, 400)[:: self.hop] * self._window
        energy = np.abs(np.fft.rfft(frames, 512)) @ self._filters.T
        return np.asarray((np.log(energy + 1e-3) + 1) / 3, dtype=np.float32)


_RHYTHMS = (0.5, 1, 2, 4, 8, 16)


def mel_filters(bands: int, points: int, rate: int, low: float = 50.0) -> Array:
    """Triangles [bands, points / 2 + 1] of equal width on the mel scale, from `low` Hz to half of `rate`.

    >>> filters = mel_filters(64, 512, 16_000)
    >>> filters.shape, float(filters.max()) <= 1
    ((64, 257), True)
    """
    edges = np.linspace(1127 * math.log1p(low / 700), 1127 * math.log1p(rate / 2 / 700), bands + 2)
    place = 1127 * np.log1p(np.fft.rfftfreq(points, 1 / rate) / 700)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rise, fall = (place - left) / (middle - left), (right - place) / (right - middle)
    return np.maximum(0, np.minimum(rise, fall)).astype(np.float32)


def _batch(prepared: Sequence[Array]) -> TokenBatch:
    return TokenBatch.full(torch.from_numpy(np.stack(prepared)))
