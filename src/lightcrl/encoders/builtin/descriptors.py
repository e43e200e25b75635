"""Classical descriptors of pictures: oriented gradients, local binary patterns, a threshold of brightness.

Each gives the same bits as the function of scikit-image that it is named beside, which tests compare it with; so the
built-in encoders need no package beyond NumPy and SciPy.
"""

from __future__ import annotations

import numpy as np

ORIENTATIONS = 9
NEIGHBOURS = 8
PATTERNS = NEIGHBOURS + 2
"""Number of codes of `binary_patterns`."""


def oriented_gradients(rgb: np.ndarray, cell: int) -> np.ndarray:
    """Return histograms of oriented gradients, normalised over blocks of 2 x 2 cells (L2-Hys).

    The gradient of a pixel is that of its steepest channel. `skimage.feature.hog`, after Dalal and Triggs,
    doi.org/10.1109/CVPR.2005.177.

    Args:
        rgb: picture [H, W, 3], float32 in 0..1.
        cell: side of a cell in pixels, even; H and W are multiples of it.

    Returns:
        [H / cell - 1, W / cell - 1, 2, 2, 9], float32.
    """
    planes = np.ascontiguousarray(np.moveaxis(rgb, 2, 0))
    down, right = np.zeros_like(planes), np.zeros_like(planes)
    down[:, 1:-1] = planes[:, 2:] - planes[:, :-2]
    right[..., 1:-1] = planes[..., 2:] - planes[..., :-2]
    red, green, blue = np.hypot(down, right)
    after_red, last = green > red, blue > np.maximum(red, green)
    down, right = (
        np.where(last, steps[2], np.where(after_red, steps[1], steps[0])).astype(float) for steps in (down, right)
    )
    histogram = _votes(down, right, cell)
    rows, columns = len(histogram) - 1, histogram.shape[1] - 1
    corners = [histogram[y : y + rows, x : x + columns] for y in (0, 1) for x in (0, 1)]
    blocks = _normalised(np.stack(corners, 2).reshape(rows, columns, 4 * ORIENTATIONS))
    return blocks.reshape(rows, columns, 2, 2, ORIENTATIONS).astype(np.float32)


def _votes(down: np.ndarray, right: np.ndarray, cell: int) -> np.ndarray:
    """Return the mean gradient of a cell's pixels by orientation, [H / cell, W / cell, 9]."""
    rows, columns = down.shape[0] // cell, down.shape[1] // cell

    def by_pixel(values: np.ndarray) -> np.ndarray:
        """Return [cell * cell, cells]."""
        cells = values.reshape(rows, cell, columns, cell).transpose(1, 3, 0, 2)
        return cells.reshape(cell**2, rows * columns)

    orientation = np.rad2deg(np.arctan2(down, right)) % 180
    bins = np.searchsorted(180 / ORIENTATIONS * np.arange(1, ORIENTATIONS), orientation, "right")
    places = by_pixel(bins) + ORIENTATIONS * np.arange(rows * columns)
    # Pixel by pixel in float32, since sums in another order or precision have other bits.
    sums = np.zeros(rows * columns * ORIENTATIONS, dtype=np.float32)
    for place, magnitude in zip(places, by_pixel(np.hypot(right, down)), strict=True):
        sums[place] = sums[place] + magnitude
    return (sums / np.float32(cell**2)).reshape(rows, columns, ORIENTATIONS).astype(float)


def _normalised(blocks: np.ndarray, epsilon: float = 1e-5, greatest: float = 0.2) -> np.ndarray:
    """Return histograms [..., 36] of length 1, clipped, and of length 1 again."""
    unit = blocks / np.sqrt(np.sum(blocks**2, -1, keepdims=True) + epsilon**2)
    clipped = np.minimum(unit, greatest)
    return np.asarray(clipped / np.sqrt(np.sum(clipped**2, -1, keepdims=True) + epsilon**2))


def binary_patterns(grey: np.ndarray, radius: int) -> np.ndarray:
    """Return the code of every pixel: how many of eight neighbours are as bright as it, 9 where they alternate.

    Neighbours lie on a circle of that radius and are interpolated; there is black beyond the border.
    `skimage.feature.local_binary_pattern(grey, 8, radius, "uniform")`, after Ojala et al.,
    doi.org/10.1109/TPAMI.2002.1017623.

    Args:
        grey: picture [H, W].
        radius: distance of the neighbours in pixels.

    Returns:
        [H, W], int64.
    """
    pixels = np.asarray(grey, dtype=np.float64)
    padded = np.pad(pixels, margin := radius + 1)
    angles = 2 * np.pi * np.arange(NEIGHBOURS) / NEIGHBOURS
    down, right = np.round(-radius * np.sin(angles), 5), np.round(radius * np.cos(angles), 5)
    # Neighbours above and below each other share the interpolation along the row.
    along = {step: _interpolated(padded.T, step, margin).T for step in set(right.tolist())}
    places = zip(down.tolist(), right.tolist(), strict=True)
    brighter = np.stack([_interpolated(along[step], fall, margin) >= pixels for fall, step in places])
    alternate = (brighter[1:] != brighter[:-1]).sum(0, dtype=np.uint8) > 2
    return np.where(alternate, NEIGHBOURS + 1, brighter.sum(0, dtype=np.uint8)).astype(np.int64)


def _interpolated(padded: np.ndarray, down: float, margin: int) -> np.ndarray:
    """Return the brightness `down` of every row, without the `margin` above and below, [H - 2 margin, W]."""
    count = len(padded) - 2 * margin
    top, bottom = (margin + int(edge) for edge in (np.floor(down), np.ceil(down)))
    if top == bottom:
        return padded[top : top + count]
    rows = np.arange(count) + down
    below = (rows - np.floor(rows))[:, None]
    return np.asarray((1 - below) * padded[top : top + count] + below * padded[bottom : bottom + count])


def otsu_threshold(values: np.ndarray, bins: int = 256) -> float:
    """Return the threshold with the greatest variance between the values below and above it.

    `skimage.filters.threshold_otsu`, after Otsu, doi.org/10.1109/TSMC.1979.4310076.
    """
    if np.all(values == values.flat[0]):
        return float(values.flat[0])
    counts, edges = np.histogram(values, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    counts = counts.astype(np.float32)
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    mean_below = np.cumsum(counts * centres) / below
    mean_above = (np.cumsum((counts * centres)[::-1]) / above[::-1])[::-1]
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(centres[np.argmax(between)])
