"""Flows from noise to data (arXiv 2210.02747) whose network predicts the data itself: pure functions.

z_t = (1 - t) ε + t x        t from 0 (noise) to 1 (data)
loss = |F(z_t, t, c) - x|² / (1 - t)²     the error of the velocity x - ε, from a prediction of x
dz/dt = (F(z, t, c) - z) / (1 - t)     in steps
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

FREQUENCIES = 32
"""Number of sines and of cosines that encode a time."""
LATEST = 0.95
"""Time up to which errors weigh more: 1 / (1 - t)² has no bound."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""A function from places [N, ...] and times [N] to predictions of the end [N, ...]."""


def draw_noise(seed: int, numbers: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return standard normal noise [N, *shape]; that of an item depends on `seed` and its number alone."""
    rows = [np.random.default_rng([seed, number]).standard_normal(tuple(shape), np.float32) for number in numbers]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, *shape)


def draw_times(count: int, middle: float) -> Tensor:
    """Return times [count] in (0, 1), the logistic function of normal numbers around `middle` (arXiv 2403.03206)."""
    return torch.sigmoid(torch.randn(count) + middle)


def encode_times(times: Tensor) -> Tensor:
    """Return sines and cosines [..., 2 x FREQUENCIES] of times [...]."""
    rates = torch.exp(torch.arange(FREQUENCIES, device=times.device) * (-math.log(1000) / FREQUENCIES))
    angles = 1000 * times[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def flow_loss(predict: Predict, data: Tensor, times: Tensor) -> Tensor:
    """Return the loss at given times [N] for data [N, ...], with noise from torch's generator."""
    noise = torch.randn(data.shape).to(data.device)
    shape = (-1, *[1] * (data.ndim - 1))
    errors = (predict(mix(data, noise, times), times).float() - data).square()
    weights = (1 - times).clamp(min=1 - LATEST) ** -2
    return (errors * weights.view(shape)).mean()


def mix(data: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Return the places [N, ...] of paths from noise to data at times [N]."""
    shares = times.view(-1, *[1] * (data.ndim - 1))
    return shares * data + (1 - shares) * noise


def guided(wanted: Predict, free: Predict, strength: float) -> Predict:
    """Return predictions led away from those without a condition: F(∅) + w (F(c) - F(∅)) (arXiv 2207.12598)."""
    if strength == 1:
        return wanted

    def predict(places: Tensor, times: Tensor) -> Tensor:
        without = free(places, times)
        return without + strength * (wanted(places, times) - without)

    return predict


def integrate(predict: Predict, noise: Tensor, steps: int, shift: float = 1.0) -> Tensor:
    """Return the ends [N, ...] of paths from noise [N, ...] in `steps` steps.

    A `shift` above 1 makes steps near the noise shorter, t = s / (s + shift (1 - s)) for equal steps of s (arXiv
    2403.03206); with 1 all are equal.
    """
    places = noise
    for step in range(steps):
        time = step / (step + shift * (steps - step))
        share = steps / ((steps - step) * (step + 1 + shift * (steps - step - 1)))  # of the way that is left
        ends = predict(places, noise.new_full(noise.shape[:1], time)).to(places.dtype)
        places = places + (ends - places) * share
    return places
