"""Connected components: groups connected by shared items."""

from __future__ import annotations

import numpy as np


def least_connected(count: int, links: np.ndarray) -> np.ndarray:
    """Return the least number connected with each of `count` numbers, itself included.

    Args:
        count: N, numbers from 0 on.
        links: pairs of connected numbers, [L, 2].

    Returns:
        The least numbers, [N].

    >>> least_connected(5, np.array([[1, 3], [3, 4]])).tolist()
    [0, 1, 2, 1, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(links), dtype=bool)
    components, labels = connected_components(
        coo_array((ones, (links[:, 0], links[:, 1])), (count, count)), directed=False
    )
    least = np.full(components, count)
    np.minimum.at(least, labels, np.arange(count))
    connected: np.ndarray = least[labels]
    return connected
