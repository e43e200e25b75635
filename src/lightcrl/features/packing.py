"""The form of stored tokens: numbers of a dtype, or `"int8"`, which takes 8 bits a number and a scale for every token.

A token x of D numbers is stored in int8 as D + 4 bytes: the numbers round(x / s), then the scale s = max|x| / 127 as
float32. A number errs by at most s / 2.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PACKED = "int8"
SCALE = 4
"""Number of bytes of a token's scale."""


def row_width(dim: int, dtype: str) -> int:
    """Return the number of stored values of a token of `dim` numbers."""
    return dim + SCALE if dtype == PACKED else dim


def pack(tokens: np.ndarray, dtype: str) -> np.ndarray:
    """Return tokens [T, D] float32 as they are stored in `dtype`, [T, `row_width`]."""
    if dtype != PACKED:
        return tokens.astype(dtype)
    scales = np.abs(tokens).max(1, keepdims=True, initial=0) / np.float32(127)
    scales = np.where(scales > 0, scales, np.float32(1)).astype("<f4")
    return np.concatenate([np.rint(tokens / scales).astype(np.int8), scales.view(np.int8)], 1)


def unpack(rows: Tensor) -> Tensor:
    """Return stored rows [N, W] as tokens [N, D]: float32 if they are packed, else in their own dtype.

    >>> unpack(torch.from_numpy(pack(np.array([[1.27, -0.5]], np.float32), "int8"))).tolist()[0][1]
    -0.5
    """
    if rows.dtype != torch.int8:
        return rows
    # A copy begins at a multiple of four bytes, which a single row of another width does not.
    scales = rows[:, -SCALE:].clone(memory_format=torch.contiguous_format).view(torch.float32)
    return rows[:, :-SCALE].float().mul_(scales)
