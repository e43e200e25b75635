"""Vectors and their ids alone (format 1 of an index), in memory or on disk, searched exactly.

manifest.json     format, number of items, width, sizes and digests of the files; written last
vectors.npy       [N, d] float16 or float32
ids.parquet       a column `id`, text or whole numbers, in the order of the vectors
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lightcrl.errors import ShapeError, StoreError, TornStoreError
from lightcrl.events import Tell
from lightcrl.files.local import file_digest, whole_file, write_json
from lightcrl.files.locks import holder, in_turn
from lightcrl.index.search import nearest

FORMAT = 1
FILES = ("vectors.npy", "ids.parquet")
CHECKED = 65_536
"""Number of vectors whose lengths are checked at a time."""


@dataclass(frozen=True)
class Found:
    """Results of a search, best first.

    Attributes:
        ids: k ids for each query.
        scores: [Q, k] float32 cosine similarities.
    """

    ids: list[list[Any]]
    scores: np.ndarray


@final
class VectorIndex:
    """Unit vectors with ids, and exact search for the nearest.

    Attributes:
        vectors: [N, d] float16 or float32, on the device that searches.
        ids: [N] text or whole numbers.
    """

    def __init__(self, vectors: np.ndarray | Tensor, ids: Sequence[str] | Sequence[int] | np.ndarray) -> None:
        """Take vectors, without a copy, and the id of each.

        Raises:
            ShapeError: the numbers of ids and vectors differ, ids are neither text nor whole numbers, or vectors are
                not unit vectors in float16 or float32.
        """
        matrix = torch.from_numpy(vectors) if isinstance(vectors, np.ndarray) else vectors
        if matrix.ndim != 2 or matrix.dtype not in (torch.float16, torch.float32) or len(matrix) != len(ids):
            raise ShapeError(
                f"vectors {list(matrix.shape)} of {matrix.dtype} with {len(ids)} ids; expected a matrix of float16 or "
                "float32 with an id for each row."
            )
        _check_lengths(matrix)
        self.vectors, self.ids = matrix, _make_ids(ids)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """The width d of a vector."""
        return int(self.vectors.shape[1])

    def search(self, queries: np.ndarray | Tensor, k: int = 10) -> Found:
        """Return the k items nearest to each query; of equally near items the first comes first.

        Args:
            queries: [Q, d], such as the embeddings that `Embedder.encode` returns.
            k: number of items; all items if there are fewer.

        Raises:
            ShapeError: queries are of another width or not finite, or k is below 1.
        """
        places, scores = nearest(torch.as_tensor(queries), self.vectors, k)
        flat = self.ids.take(pa.array(places.cpu().numpy().ravel())).to_pylist()
        width = places.shape[1]
        return Found([flat[at * width : (at + 1) * width] for at in range(len(places))], scores.cpu().numpy())

    def save(self, folder: Path | str, tell: Tell = lambda event: None) -> None:
        """Write the index to `folder` in place of an existing one; it counts only once it is complete.

        Args:
            folder: folder of the index, made if it is missing; another process that writes it goes first.
            tell: function that receives the event `waiting` while another process writes.

        Raises:
            StorageError: the disk is full or not writable.
        """
        with in_turn(Path(folder), tell):
            self._write(Path(folder))

    def _write(self, folder: Path) -> None:
        (folder / "manifest.json").unlink(missing_ok=True)
        with whole_file(folder / "vectors.npy") as temporary, temporary.open("wb") as stream:
            np.save(stream, self.vectors.cpu().numpy())
        with whole_file(folder / "ids.parquet") as temporary:
            pq.write_table(pa.table({"id": self.ids}), temporary)
        files = {
            name: {"bytes": (folder / name).stat().st_size, "digest": file_digest(folder / name)} for name in FILES
        }
        write_json(folder / "manifest.json", {"format": FORMAT, "items": len(self), "dim": self.dim, "files": files})

    @classmethod
    def open(cls, folder: Path | str, *, memory: bool = False, device: str = "cpu") -> VectorIndex:
        """Return the index in `folder`, with its vectors mapped from the file, or read and checked.

        Args:
            folder: folder that `save` has written.
            memory: True to read all vectors into memory and to compare digests.
            device: device that searches; any device but the CPU reads the vectors into its memory.

        Raises:
            StoreError: there is no complete index, another process is writing it, or its format is newer than this
                version reads.
            TornStoreError: a file is missing or has another size; with `memory`, or has other content.
        """
        folder = Path(folder)
        manifest = _manifest(folder, memory)
        # Nothing writes to these pages, but torch requires writable ones.
        mapped = np.load(folder / "vectors.npy", mmap_mode=None if memory or not manifest["items"] else "c")
        index = object.__new__(cls)  # `__init__` would read and check all vectors again
        index.vectors = torch.from_numpy(mapped).to(device)
        index.ids = pq.read_table(folder / "ids.parquet")["id"].combine_chunks()
        return index


def _manifest(folder: Path, digests: bool) -> dict[str, Any]:
    """Return the manifest of a complete index, and check its files."""
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (writer := holder(folder)) is not None and writer.lives is not False:
            raise StoreError(f"{folder} is being written by {writer}. Open it when that has ended.") from None
        raise StoreError(
            f"no index in {folder}: expected manifest.json, which is written last. Save the index again."
        ) from None
    except ValueError as error:
        raise TornStoreError(f"{path} is not JSON ({error}). Save the index again.") from None
    if manifest["format"] > FORMAT:
        raise StoreError(f"{folder} has format {manifest['format']}, this version reads up to {FORMAT}.")
    for name, stamp in manifest["files"].items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != stamp["bytes"]:
            state, wanted = "is missing" if size is None else f"has {size} bytes", f"{stamp['bytes']} bytes"
        elif digests and (digest := file_digest(folder / name)) != stamp["digest"]:
            state, wanted = f"has digest {digest}", stamp["digest"]
        else:
            continue
        raise TornStoreError(f"{folder / name} {state}, expected {wanted}. Save the index again.")
    return manifest


def _make_ids(ids: Sequence[str] | Sequence[int] | np.ndarray) -> pa.Array:
    try:
        array = pa.array(ids)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        array = pa.nulls(0)
    if len(ids) and (array.null_count or not (pa.types.is_string(array.type) or pa.types.is_integer(array.type))):
        raise ShapeError(
            "ids are of several kinds or of none; expected all of them text, or all of them whole numbers."
        )
    return array


def _check_lengths(vectors: Tensor) -> None:
    for start in range(0, len(vectors), CHECKED):
        lengths = vectors[start : start + CHECKED].float().norm(dim=1)
        wrong = ((lengths - 1).abs() <= 0.01).logical_not().nonzero()  # NaN counts as wrong
        if len(wrong):
            at = int(wrong[0])
            raise ShapeError(
                f"vector {start + at} has length {float(lengths[at]):.3g}, expected 1. Normalise the vectors, or embed "
                "them with `Embedder.encode`."
            )
