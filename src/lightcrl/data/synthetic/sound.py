"""Sounds of scenes: timbre by shape, pitch by colour, pulses by count, glide by position, tremor by texture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lightcrl.data.synthetic.scene import ATTRIBUTES, Scene, Seed

RATE = 16_000  # Hz
LOWEST = 165.0  # Hz, the first colour
STEP = 2 ** (4.5 / 12)  # from one colour to the next
GLIDE = 2 ** (7 / 12)  # from start to end

# Amplitude by frequency, as a multiple of the pitch.
TIMBRES: Mapping[str, Mapping[float, float]] = {
    "circle": {1: 1},
    "square": {1: 1, 3: 0.8, 5: 0.65, 7: 0.5, 9: 0.4},
    "triangle": {partial: 1 / partial for partial in range(1, 13)},
    "star": {1: 1, 2.76: 0.8, 5.4: 0.6, 8.93: 0.4},
    "cross": {1: 0.3, 2: 1, 4: 0.8, 8: 0.5},
    "ring": {1: 1, 1.5: 0.9, 2.25: 0.7},
    "heart": {1: 1, 2: 0.6, 3: 0.2},
    "diamond": {1: 0.4, 5: 1, 6: 0.9, 7: 0.6},
}
# Frequency and depth of the loudness dips: Hz, share.
TREMORS: Mapping[str, tuple[float, float]] = {
    "plain": (0, 0),
    "striped": (24, 0.9),
    "dotted": (48, 0.9),
    "chequered": (95, 0.9),
}


def sound(scene: Scene, seed: Seed) -> tuple[np.ndarray, int]:
    """Return mono samples (float32 in [-1, 1], 0.7 to 1 s) of a scene and their rate in Hz; `seed` sets length, tuning,
    loudness and noise.
    """
    rng = np.random.default_rng(seed)
    samples = np.zeros(int(rng.uniform(0.7, 1.0) * RATE))
    pitch = LOWEST * STEP ** ATTRIBUTES["colour"].index(scene.colour) * rng.uniform(0.985, 1.015)
    period = len(samples) // scene.number
    pulse = _pulse(scene, pitch, int(0.8 * period))
    for start in range(0, period * scene.number, period):
        samples[start : start + len(pulse)] = pulse
    samples *= rng.uniform(0.45, 0.7) / np.abs(samples).max()
    samples += rng.normal(0, rng.uniform(0.002, 0.01), len(samples))
    return samples.clip(-1, 1).astype(np.float32), RATE


def _pulse(scene: Scene, pitch: float, length: int) -> np.ndarray:
    """Return the samples of a tone, [length]."""
    course = np.arange(length) / length
    glide = {"top": GLIDE**course, "bottom": GLIDE**-course}.get(scene.position, np.ones(length))
    phase = 2 * np.pi * np.cumsum(pitch * glide) / RATE
    highest = RATE / 2 / (pitch * glide.max())
    tone = sum(
        (
            amplitude * np.sin(multiple * phase)
            for multiple, amplitude in TIMBRES[scene.shape].items()
            if multiple < highest
        ),
        start=np.zeros(length),
    )
    loudness = {"left": np.exp(-4 * course), "right": np.exp(4 * course - 4)}.get(scene.position, np.ones(length))
    rate, depth = TREMORS[scene.texture]
    tremor = 1 - depth * (0.5 - 0.5 * np.cos(2 * np.pi * rate * np.arange(length) / RATE))
    edges = np.minimum(1, np.minimum(course, 1 - course) * length / (0.006 * RATE))  # no clicks
    return np.asarray(tone * loudness * tremor * edges)
