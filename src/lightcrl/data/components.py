"""Connected components: who belongs together because something is shared."""

from __future__ import annotations

import numpy as np


def least_connected(count: int, links: np.ndarray) -> np.ndarray:
    """The least number among those that each of `count` numbers is connected with, itself included.

    Args:
        count: N, numbers from 0 on.
        links: [L, 2] pairs of numbers that are connected.

    Returns:
        [N].

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
    found: np.ndarray = least[labels]
    return found
