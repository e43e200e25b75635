"""The model of an index, and which other models may search it: those that it was extended from or into.

A descendant of the index's model may also add items, of new modalities too. The index then belongs to the descendant,
which `model.json` names in place of the manifest; old vectors stay valid, since no step of growth moves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightcrl.embedder import Embedder, load
from lightcrl.files.local import write_json
from lightcrl.lineage import Line, check_valid, identity

MODEL = "model.json"


def model_entry(embedder: Embedder) -> dict[str, Any]:
    """Return the entry of a model in a manifest: its place, its modalities, and the steps that led to it."""
    entry: dict[str, Any] = {
        "fingerprint": embedder.fingerprint,
        "place": embedder.place,
        "modalities": embedder.modalities,
    }
    if steps := identity(embedder.checkpoint.lineage):
        entry["lineage"] = steps
    return entry


def line_of(manifest: Mapping[str, Any]) -> Line:
    """Return the model of an index with the models that it was extended from."""
    return Line(manifest["model"]["fingerprint"], manifest["model"].get("lineage", ()))


def check_line(folder: Path, manifest: Mapping[str, Any], line: Line, modality: str | None) -> None:
    """Refuse a model whose embeddings of a modality do not belong to an index.

    Raises:
        ForeignModelError: see `lightcrl.lineage.check_valid`.
    """
    place = manifest["model"]["place"]
    check_valid(line_of(manifest), line, f"the index in {folder} (model in {place})", modality)


def accepted(folder: Path, manifest: Mapping[str, Any], model: Embedder | Path | str) -> Embedder:
    """Return the model, loaded, if an index may be searched with all its modalities.

    Raises:
        ForeignModelError: the model is neither that of the index, nor a descendant, nor an ancestor whose encoders are
            all in use still.
    """
    embedder = model if isinstance(model, Embedder) else load(model)
    for modality in embedder.modalities:
        check_line(folder, manifest, embedder.line, modality)
    return embedder


def adopted(folder: Path, manifest: Mapping[str, Any], embedder: Embedder | None) -> Mapping[str, Any]:
    """Make a descendant of the index's model its model, before it adds items; return the manifest."""
    if embedder is None or manifest["model"]["fingerprint"] not in dict(embedder.line.ancestors()):
        return manifest
    entry = model_entry(embedder)
    write_json(folder / MODEL, entry)
    return {**manifest, "model": entry}
