"""Sounds as statistics of their spectrum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from lightcrl.encoders.audio import LONGEST, SHORTEST, read_sound
from lightcrl.encoders.base import Encoder
from lightcrl.tokens import TokenBatch


class MelStatistics(Encoder):
    """Sounds as tokens of 64 numbers, from statistics of their spectrum.

    Over mel bands: mean, spread, peak and mean change of the level, and its mean in `segments` equal parts of the
    sound. Beside these: how loudness pulses (from 0.5 to 250 Hz), and the intervals between the partials, whatever
    their pitch.

    Args:
        segments: number of parts of the sound.
        max_length: greatest length in seconds; the rest is cut off.
    """

    kind = "audio"
    version = 1
    dim = 64
    rate = 16_000

    def __init__(self, segments: int = 8, max_length: float = LONGEST) -> None:
        self.segments, self.max_length = segments, max_length
        self.slots = 6 + segments
        octaves = np.geomspace(80, self.rate / 2, 2 * self.dim + 2)
        self._mel = csr_array(mel_filters(self.dim, 512, self.rate))
        self._octaves = csr_array(triangles(octaves, np.fft.rfftfreq(1024, 1 / self.rate)))

    def describe(self) -> Mapping[str, Any]:
        """Return name, version and options."""
        return {
            "encoder": "builtin:mel",
            "version": self.version,
            "segments": self.segments,
            "max_length": self.max_length,
        }

    def prepare(self, raw: Any) -> np.ndarray:
        """Return tokens [6 + segments, 64] of a sound.

        Raises:
            ItemError: see `read_sound`.
        """
        sound = read_sound(raw, self.rate, self.max_length)
        sound = np.pad(sound, (0, max(0, math.ceil(SHORTEST * self.rate) - len(sound))))
        levels = np.log((self._mel @ _spectra(sound, 400, 160, 512).T).T + 1e-3) / 3
        changes = np.abs(np.diff(levels, axis=0, append=levels[-1:]))
        parts = [part.mean(0) for part in np.array_split(np.repeat(levels, self.segments, axis=0), self.segments)]
        overall = [levels.mean(0), levels.std(0), levels.max(0), changes.mean(0)]
        return np.stack([*overall, self._pulses(sound), self._intervals(sound), *parts]).astype(np.float32)

    def encode(self, prepared: Sequence[np.ndarray]) -> TokenBatch:
        """Return the tokens as a batch."""
        return TokenBatch.full(torch.from_numpy(np.stack(prepared)))

    def _pulses(self, sound: np.ndarray) -> np.ndarray:
        """Return the spectrum of the loudness, sampled every two milliseconds, [64]."""
        step = self.rate // 500
        loudness = np.abs(np.pad(sound, (0, -len(sound) % step))).reshape(-1, step).mean(1)
        spectrum = np.abs(np.fft.rfft(loudness - loudness.mean())) / max(float(loudness.sum()), 1e-6)
        bands = triangles(np.geomspace(0.5, 250, self.dim + 2), np.fft.rfftfreq(len(loudness), step / self.rate))
        pulses: np.ndarray = np.sqrt((bands * spectrum**2).sum(1))
        return pulses

    def _intervals(self, sound: np.ndarray) -> np.ndarray:
        """Return the autocorrelation of the spectrum over the logarithm of frequency, averaged over the sound, [64]."""
        spectra = np.sqrt((self._octaves @ _spectra(sound, 1024, 512, 1024).T).T)
        spectra -= spectra.mean(1, keepdims=True)
        power = np.abs(np.fft.rfft(spectra, 4 * self.dim)) ** 2
        correlation: np.ndarray = np.fft.irfft(power.sum(0))[: self.dim]
        return correlation / max(float(correlation[0]), 1e-6)


def _spectra(sound: np.ndarray, width: int, hop: int, points: int) -> np.ndarray:
    """Return magnitudes under Hann windows of `width` samples, `hop` apart, [frames, points / 2 + 1]."""
    window = np.hanning(width + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(sound, width)[::hop]
    return np.abs(np.fft.rfft(frames * window, points))


def mel_filters(bands: int, points: int, rate: int, low: float = 50.0) -> np.ndarray:
    """Return triangles [bands, points / 2 + 1] of equal width on the mel scale, from `low` Hz to half of `rate`.

    >>> filters = mel_filters(64, 512, 16_000)
    >>> filters.shape, float(filters.max()) <= 1
    ((64, 257), True)
    """
    edges = np.linspace(math.log1p(low / 700), math.log1p(rate / 2 / 700), bands + 2)
    return triangles(700 * np.expm1(edges), np.fft.rfftfreq(points, 1 / rate))


def triangles(edges: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return triangles [len(edges) - 2, len(places)], each from one edge to the next and down to the one after.

    Where edges are closer than the (evenly spaced) places, triangles are as wide as it takes to interpolate.
    """
    middle, step = edges[1:-1, None], places[1] - places[0]
    left, right = np.minimum(edges[:-2, None], middle - step), np.maximum(edges[2:, None], middle + step)
    rise, fall = (places - left) / (middle - left), (right - places) / (right - middle)
    return np.asarray(np.maximum(0, np.minimum(rise, fall)), dtype=np.float32)
