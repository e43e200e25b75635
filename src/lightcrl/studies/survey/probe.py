"""Files of a sample that cannot be read, and the sizes of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.data.vectors import read_tokens
from lightcrl.encoders.audio import read_sound
from lightcrl.encoders.image import read_image
from lightcrl.errors import ItemError
from lightcrl.studies.survey.columns import Column

RATE = 16_000


@dataclass(frozen=True)
class Probe:
    """The result of reading some files of a column.

    Attributes:
        tried: number of files.
        broken: reasons, with the file.
        detail: sizes in words.
    """

    tried: int
    broken: tuple[str, ...]
    detail: str


def probe(column: Column, root: Path | None) -> Probe:
    """Read the samples of a column of pictures, sounds or vectors."""
    broken, sizes = [], []
    for value in column.samples:
        raw = value
        if isinstance(raw, Mapping):
            raw = raw.get("bytes") or raw.get("path")
        if isinstance(raw, str) and not raw.lstrip().startswith("["):
            raw = (root or Path()) / raw
        try:
            sizes.append(_size(raw, column.content))
        except (ItemError, OSError) as error:
            broken.append(f"{raw if isinstance(raw, Path) else column.name}: {error}")
    detail = f"median {' x '.join(f'{number:.0f}' for number in np.median(sizes, 0))}" if sizes and sizes[0] else ""
    unit = {"image": " pixels", "audio": " seconds"}.get(column.content, "")
    return Probe(len(column.samples), tuple(broken), detail + unit if detail else "")


def _size(raw: Any, content: str) -> tuple[float, ...]:
    if content == "image":
        return tuple(map(float, read_image(raw, 1 << 31).size))
    if content == "audio":
        return (len(read_sound(raw, RATE)) / RATE,)
    if content == "vectors":
        return tuple(map(float, read_tokens(raw).shape))
    return ()
